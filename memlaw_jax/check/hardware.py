"""The machines that a config can name: chips, how they are joined, and what they can do.

Figures are the makers': Cloud TPU's pages on v4, v5e, v5p and v6e; those of the H100 SXM and the H200 SXM, dense rates,
by way of other people's tables, all read in 2026. `usable` is what a program may have: on TPUs what libtpu 0.0.42
grants before it refuses, on GPUs JAX's default of 75 %. Prices are on demand, as remembered and not looked up again
where `price_source` says so: good for an order of magnitude. Rings are reckoned with wrap-around links, which slices of
v5e and v6e below 256 chips lack, so that what runs along `fsdp` or `tensor` there may take twice as long.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from memlaw_jax.errors import UserError

GB, GIB = 10**9, 2**30


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One accelerator; what JAX calls a device.

    Attributes:
      memory: bytes of HBM.
      usable: bytes of it that programs and their arguments may take.
      peak: bfloat16 FLOP/s, dense.
      hbm: bytes/s between memory and cores.
      ici: bytes/s that a chip sends along one dimension of its torus, both ways together; a GPU's over NVLink.
      dcn: bytes/s that a chip sends over the data centre's network; None where nothing is published.
      price: US dollars an hour, as listed; None where there is no list price.
      price_source: where and when that was listed.
    """

    name: str
    platform: str
    memory: int
    usable: int
    peak: float
    hbm: float
    ici: float
    dcn: float | None = None
    price: float | None = None
    price_source: str = ""


_LISTED = "on demand in 2025, from memory, not verified"
_TPUS = {
    # v4: 2400 Gbit/s a chip over three dimensions.
    "v4": Chip(
        name="TPU v4", platform="tpu", memory=32 * GIB, usable=int(30.75 * GIB), peak=275e12, hbm=1200e9, ici=100e9,
        price=3.22, price_source=_LISTED,
    ),
    # v5e: 400 GB/s a chip in both directions over two dimensions; 6.4 Tbit/s a pod of 256 chips.
    "v5e": Chip(
        name="TPU v5e", platform="tpu", memory=16 * GIB, usable=int(15.75 * GIB), peak=197e12, hbm=819e9, ici=100e9,
        dcn=3.125e9, price=1.20, price_source=_LISTED,
    ),
    # v5p: 1200 GB/s a chip in both directions over three dimensions; 50 Gbit/s a chip.
    "v5p": Chip(
        name="TPU v5p", platform="tpu", memory=96 * GIB, usable=int(95.74 * GIB), peak=459e12, hbm=2765e9, ici=200e9,
        dcn=6.25e9, price=4.20, price_source=_LISTED,
    ),
    # v6e: 800 GB/s a chip in both directions over two dimensions; 25.6 Tbit/s a pod of 256 chips.
    "v6e": Chip(
        name="TPU v6e", platform="tpu", memory=32 * GIB, usable=int(31.25 * GIB), peak=918e12, hbm=1600e9, ici=200e9,
        dcn=12.5e9, price=2.70, price_source="Google's announcement of Trillium, December 2024; may have changed",
    ),
}  # fmt: skip
_GPUS = {
    "h100": Chip(
        name="H100 SXM", platform="gpu", memory=80 * GB, usable=60 * GB, peak=989e12, hbm=3.35e12, ici=450e9,
    ),
    "h200": Chip(
        name="H200 SXM", platform="gpu", memory=141 * GB, usable=int(0.75 * 141 * GB), peak=989e12, hbm=4.8e12,
        ici=450e9,
    ),
}  # fmt: skip
# Topologies by number of chips. v4 and v5p count two cores a chip in their names.
_FLAT = {
    1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16",
}  # fmt: skip
_CUBES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8"}


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Chips that train together: one slice or several, or the GPUs of one machine.

    Attributes:
      name: as users type it, `v5e-16` or `2xv5e-16`.
      chip: what it is made of.
      slices: how many slices, joined by the data centre's network.
      chips_a_slice: chips that ICI or NVLink joins.
      chips_a_host: of one virtual machine, which runs one process.
      topology: libtpu's name of a slice's shape; empty for GPUs.
      accelerator_type: Cloud TPU's name of a slice; empty for GPUs.
    """

    name: str
    chip: Chip
    slices: int
    chips_a_slice: int
    chips_a_host: int
    topology: str = ""
    accelerator_type: str = ""

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return self.slices * self.chips_a_slice

    @property
    def hosts(self) -> int:
        """Virtual machines, and so processes, of all slices."""
        return self.chips // self.chips_a_host

    @property
    def price(self) -> float | None:
        """US dollars an hour, as listed; None where there is no list price."""
        return None if self.chip.price is None else self.chip.price * self.chips


def _table() -> dict[str, Hardware]:
    made = []
    for kind, prefix in (("v5e", "v5litepod"), ("v6e", "v6e")):
        for chips, shape in _FLAT.items():
            made.append(
                Hardware(
                    name=f"{kind}-{chips}", chip=_TPUS[kind], slices=1, chips_a_slice=chips,
                    chips_a_host=chips if chips <= 8 else 4, topology=f"{kind}:{shape}",
                    accelerator_type=f"{prefix}-{chips}",
                )
            )  # fmt: skip
    for kind in ("v4", "v5p"):
        for chips, shape in _CUBES.items():
            name = f"{kind}-{2 * chips}"
            made.append(
                Hardware(
                    name=name, chip=_TPUS[kind], slices=1, chips_a_slice=chips, chips_a_host=4,
                    topology=f"{kind}:{shape}", accelerator_type=name,
                )
            )  # fmt: skip
    for kind, chip in _GPUS.items():
        for chips in (1, 8):
            made.append(Hardware(name=f"{kind}-{chips}", chip=chip, slices=1, chips_a_slice=chips, chips_a_host=chips))
    return {hardware.name: hardware for hardware in made}


_SLICES = _table()
NAMES = tuple(_SLICES)


def find_hardware(name: str) -> Hardware:
    """The machine of that name, such as `v5e-16`, `v4-32` (16 chips: cores are counted), `2xv5e-16` or `h100-8`.

    Raises:
      UserError: there is none.
    """
    found = re.fullmatch(r"(?:([1-9]\d*)x)?(\w+-\d+)", name)
    count, one = (int(found[1] or 1), _SLICES.get(found[2])) if found else (1, None)
    if one is None:
        kinds = {kind.partition("-")[0]: [] for kind in NAMES}  # type: dict[str, list[str]]
        for kind in NAMES:
            kinds[kind.partition("-")[0]].append(kind.partition("-")[2])
        allowed = ", ".join(f"{kind}-{'/'.join(sizes)}" for kind, sizes in kinds.items())
        raise UserError(f"hardware is {name!r}; allowed are {allowed}, and several TPU slices such as 2xv5e-16.")
    if count > 1 and (one.chip.platform != "tpu" or one.chip.dcn is None):
        raise UserError(f"hardware is {name!r}; several slices are known for v5e, v5p and v6e only.")
    return Hardware(**(vars(one) | {"name": name, "slices": count}))
