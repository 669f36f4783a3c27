"""What `memlaw check` says: memory a chip, collectives, a predicted step time, and the verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import jax

from memlaw_jax.check.compiled import Step
from memlaw_jax.check.hardware import GIB, Hardware
from memlaw_jax.check.lower import bytes_a_chip
from memlaw_jax.check.predict import OF_HBM, OF_LINKS, OF_PEAK, predict
from memlaw_jax.mesh import ADAPTERS
from memlaw_jax.models import Cut
from memlaw_jax.readout.batch import FEATURE_TOKENS
from memlaw_jax.sharding import AT_REST, weight_shardings
from memlaw_jax.training.memory import kept_bytes


@dataclass(frozen=True, kw_only=True)
class Report:
    """One sweep's step on one machine.

    Attributes:
      own_tokenizer: whether the model's tokenizer was at hand.
      largest: the step with the most lanes that fit, where it was looked for.
    """

    hardware: Hardware
    step: Step
    own_tokenizer: bool
    searched: bool = False
    largest: Step | None = None

    @property
    def whole_model(self) -> int:
        """Bytes a chip of the whole model while it is loaded and its features are computed."""
        base, mesh = self.step.plan.base, self.step.plan.placement.mesh
        places = weight_shardings(mesh, base.params, AT_REST)
        return bytes_a_chip(
            jax.tree.map(
                lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), base.params, places
            )
        )

    @property
    def loading(self) -> int:
        """Bytes a chip before training: the whole model, the features, and in turn a pass that computes some of them,
        about, and the weights that are trained on.
        """
        plan, base = self.step.plan, self.step.plan.base
        tokens = min(FEATURE_TOKENS, plan.samples * plan.bucket.width)
        one_pass = kept_bytes(base.config, Cut.of(base.config, None), base.dtype, tokens, "blocks")
        return self.whole_model + self.step.features + max(one_pass, self.step.weights)

    @property
    def reasons(self) -> list[str]:
        """Why it does not fit; empty if it does."""
        step, told = self.step, []
        room = step.usable - step.reserve
        if not step.fits:
            told.append(f"a step of {_count(step.plan.lanes, 'lane')} needs {_gib(step.total)} a chip")
        if self.loading > room:
            told.append(f"loading the model needs {_gib(self.loading)} a chip")
        if told:
            kept = f"and a {self.hardware.chip.name} gives {_gib(step.usable)}, of which {_gib(step.reserve)} stay free"
            told[-1] += f", {kept}"
        along = {one.kind for one in step.collectives or () if ADAPTERS in one.axes}
        if along:
            told.append(f"the program has collectives along adapters: {', '.join(sorted(along))}")
        return told

    def as_json(self) -> dict[str, Any]:
        """Every number, in bytes, FLOPs and seconds."""
        step, plan, chip = self.step, self.step.plan, self.hardware.chip
        told = {
            "model": plan.base.name,
            "hardware": self.hardware.name,
            "chips": self.hardware.chips,
            "hosts": self.hardware.hosts,
            "mesh": plan.placement.describe(),
            "compiled": step.compiled,
            "own_tokenizer": self.own_tokenizer,
            "step": {
                "lanes": plan.lanes, "lanes_a_chip": plan.lanes_a_chip, "samples": plan.bucket.samples,
                "tokens": plan.bucket.width, "answers": plan.bucket.slots, "rank": plan.rank,
                "steps_a_dispatch": plan.steps, "remat": step.remat, "kernels": step.kernels,
            },
            "memory_a_chip": {
                "frozen_weights": step.weights, "adapters": step.adapters, "features": step.features,
                "temporaries": step.temporaries, "total": step.total, "usable": step.usable, "reserve": step.reserve,
            },
            "loading_a_chip": {"whole_model": self.whole_model, "total": self.loading},
            "collectives": None if step.collectives is None else [asdict(one) for one in step.collectives],
            "usd_an_hour": self.hardware.price,
            "usd_source": chip.price_source or None,
            "fits": not self.reasons,
            "reasons": self.reasons,
        }  # fmt: skip
        if step.collectives is not None:
            made = predict(plan, step.remat, step.collectives, chip)
            told["predicted"] = asdict(made) | {
                "seconds": made.seconds, "bound": made.bound,
                "compute_to_communication": made.compute_to_communication,
                "assumed": {"of_peak": OF_PEAK, "of_memory": OF_HBM, "of_links": OF_LINKS},
            }  # fmt: skip
        if self.searched:
            told["largest_lanes"] = self.largest.plan.lanes if self.largest else None
        return told

    def words(self) -> str:
        """The report for a person."""
        return "\n".join([*self._head(), *self._memory(), *self._talk(), *self._time(), *self._end()])

    def _head(self) -> list[str]:
        plan, step, machine = self.step.plan, self.step, self.hardware
        mesh = ", ".join(f"{axis} {size}" for axis, size in plan.placement.describe().items() if size > 1) or "one chip"
        how = "compiled by libtpu, not run" if step.compiled else "reckoned, not compiled"
        lines = [
            f"{plan.base.name} on {machine.name}: {_count(machine.chips, machine.chip.name)} on "
            f"{_count(machine.hosts, 'host')}, mesh {mesh}; {how}.",
            f"A step: {_count(plan.lanes, 'lane')}, {plan.lanes_a_chip} a chip; "
            f"{_count(plan.bucket.samples, 'sample')} of {plan.bucket.width} tokens, up to {plan.bucket.slots} of "
            f"them answers; ranks padded to {plan.rank}; remat {step.remat}.",
        ]
        if step.kernels is not None and plan.bucket.width >= 128:
            kernel = f"a kernel ({step.kernels} in the program)" if step.kernels else "plain XLA, block by block"
            lines.append(f"Attention: {kernel}.")
        if not self.own_tokenizer:
            lines.append(
                "The model's tokenizer is not here; the embedded model's stands in. Answer lengths are counts of "
                "tokens, so a long context's shapes differ by its short prompt only; a phone book's tokens a sample "
                "are estimated for Qwen3-8B and Llama-3.1-8B-Instruct, and the stand-in's own for others."
            )
        return lines

    def _memory(self) -> list[str]:
        step = self.step
        parts = {
            "frozen weights": step.weights, "adapters, moments": step.adapters, "features, labels": step.features,
            "temporaries": step.temporaries, "total": step.total,
        }  # fmt: skip
        lines = ["", "Memory a chip, GiB", *[f"  {name:<18}{size / GIB:>9.3f}" for name, size in parts.items()]]
        lines[-1] += f"  of {step.usable / GIB:.2f}, of which {step.reserve / GIB:.2f} stay free"
        lines.append(
            f"  {'while loading':<18}{self.loading / GIB:>9.3f}  with {self.whole_model / GIB:.3f} of the model"
        )
        return lines

    def _talk(self) -> list[str]:
        found = self.step.collectives
        if not found:
            return ["", "Collectives: none." if found is not None else "Collectives: unknown, the program was refused."]
        lines = ["", f"{'Collectives a step':<22}{'along':<16}{'count':>8}{'MB a chip sends':>18}"]
        for one in found:
            along = ", ".join(one.axes) + (" (DCN)" if one.crosses_slices else "")
            lines.append(f"  {one.kind:<20}{along:<16}{one.count:>8.0f}{one.bytes / 1e6:>18.1f}")
        return lines

    def _time(self) -> list[str]:
        step, machine = self.step, self.hardware
        if step.collectives is None:
            return []
        made = predict(step.plan, step.remat, step.collectives, machine.chip)
        lines = [
            "",
            f"Predicted, not measured: {made.seconds:.3g} s a step, bound by {made.bound} "
            f"({made.flops / 1e12:.4g} TFLOP a chip at {OF_PEAK:.0%} of peak {made.compute:.3g} s, memory "
            f"{made.memory:.3g} s, communication {made.communication:.3g} s).",
        ]
        if made.compute_to_communication:
            lines.append(f"Arithmetic takes {made.compute_to_communication:.3g} times as long as communication.")
        if machine.price:
            lane = machine.price * made.seconds / 3600 / step.plan.lanes * 1000
            lines.append(
                f"List price ${machine.price:.2f} an hour, so ${lane:.3g} for 1000 steps of one adapter "
                f"({machine.chip.price_source})."
            )
        return lines

    def _end(self) -> list[str]:
        lines = ["", "Verdict: " + (f"does not fit: {'; '.join(self.reasons)}." if self.reasons else "fits.")]
        if self.searched:
            most = self.largest
            told = f"the most lanes that fit are {most.plan.lanes} (remat {most.remat})" if most else "no lane fits"
            lines.append(f"Of up to {self.step.plan.placement.fit(len(self.step.plan.cells))} lanes {told}.")
        return lines


def _count(number: int, what: str) -> str:
    """`1 host`, `2 hosts`; what is written in capitals is a product's name."""
    return f"{number} × {what}" if what[0].isupper() else f"{number} {what}{'' if number == 1 else 's'}"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"
