"""The files of `tpu_configs/`: the paper's grids, headers that say what they promise, and with libtpu that they fit."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from memlaw_jax.check.flags import flag_environment
from memlaw_jax.check.hardware import Hardware, find_hardware
from memlaw_jax.cli.config import read_config
from memlaw_jax.mesh import ADAPTERS, FSDP, MESH_AXES
from memlaw_jax.training.sweep_config import SweepConfig

from .test_check_command import compiled

FOLDER = Path(__file__).parents[2] / "tpu_configs"
FILES = sorted(FOLDER.glob("*.yaml"))
SLICES = ("v4-32", "v5e-8", "v5e-16", "v5e-256", "v5p-32", "v6e-8", "v6e-16", "v6e-256", "2xv5e-16")
GPUS = ("h100-1", "h200-8")
MODELS = {"qwen3-8b": "Qwen/Qwen3-8B", "llama-3.1-8b": "meta-llama/Llama-3.1-8B-Instruct"}
PAPER = {  # PAPER.md, section 3
    "long_context": (
        (50, 100, 200, 500, 1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 10000),
        (1, 2, 4, 6, 8, 10, 12, 14, 16, 24, 32, 48, 64, 128, 256, 512),
    ),
    "phonebook": ((1000, 2000, 4000, 8000, 12000, 16000, 24000, 32000), (1, 2, 4, 8, 16, 32, 64)),
}
GRACE = 10.0  # seconds of a dispatch, of the 30 that a preempted TPU is given
each_file = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])


def read(path: Path) -> tuple[SweepConfig, Hardware, str]:
    """Config, hardware, and the header with its comment signs and broken lines mended."""
    config = read_config(path)
    assert config.hardware is not None
    lines = path.read_text().splitlines()
    head = [line.removeprefix("#") for line in lines if line.startswith("#")]
    assert lines[: len(head)] == [f"#{line}" for line in head], "the header comes first"
    return config, find_hardware(config.hardware), re.sub(r" \\\n\s*", " ", "\n".join(head))


def test_every_machine_has_both_models_and_both_tasks():
    wanted = {f"{name}_{model}_{task}" for name in (*SLICES, *GPUS) for model in MODELS for task in PAPER}
    assert {path.stem for path in FILES} == wanted | {"smoke_embedded"}


@each_file
def test_a_file_is_the_grid_that_its_name_says(path: Path):
    config, hardware, _ = read(path)
    if path.stem == "smoke_embedded":
        assert config.model == "embedded" and hardware.chips == 8
        return
    name, model, task = path.stem.split("_", 2)
    assert (config.hardware, config.model, config.made_task().name) == (name, MODELS[model], task)
    assert (config.lengths, config.ranks) == PAPER[task]
    assert config.protocol == "paper" and config.dtype == "bfloat16"
    if task == "long_context":
        assert config.optim.steps == 2000
    else:
        assert (config.optim.epochs, config.optim.batch_size) == (200, 16 if model == "qwen3-8b" else 20)


@each_file
def test_the_mesh_takes_all_chips_and_no_lane_idles_for_want_of_cells(path: Path):
    config, hardware, _ = read(path)
    within = config.mesh.ici.filled(hardware.chips_a_slice, "chips")
    between = config.mesh.dcn.filled(hardware.slices, "slices")
    sizes = dict(zip(MESH_AXES, [a * b for a, b in zip(within, between, strict=True)], strict=True))
    assert math.prod(sizes.values()) == hardware.chips
    assert config.lanes % (sizes[ADAPTERS] * sizes[FSDP]) == 0
    cells = len(config.ranks) * len(config.methods) * len(config.seeds)
    # a long text shares lanes with others of its length alone, a phone book with all lengths
    assert config.lanes <= cells * (1 if config.made_task().name == "long_context" else len(config.lengths))


@each_file
def test_the_header_says_what_it_promises(path: Path):
    config, hardware, head = read(path)
    if hardware.chip.platform == "tpu":
        hosts = f"on {hardware.hosts} host{'s' if hardware.hosts > 1 else ''}."
        assert re.search(
            rf"^ Slice: {hardware.name}: .*{hardware.accelerator_type} .*{hardware.chips} chips", head, re.M
        )
        assert hosts in head
    assert f"{hardware.chip.usable / 2**30:.2f} of it usable" in head
    assert f"Lanes: {config.lanes}, {config.lanes // hardware.chips} a " in head
    step = re.search(r"Expected step time: (?:below a millisecond|([\d.e-]+) s)[^(]*\(memlaw check's prediction", head)
    assert step and "not measured" in head and "40 %" in head
    assert float(step[1] or 1e-3) * config.steps_per_dispatch <= GRACE
    need = re.search(r"The step needs ([\d.]+):", head)
    assert need and float(need[1]) < hardware.chip.usable / 2**30
    groups = config.xla_flags or ("overlap-gather",)
    for flags in flag_environment(groups, hardware.chip.platform, {}).values():
        if path.stem != "smoke_embedded":
            assert all(flag in head for flag in flags.split())


@each_file
def test_the_launch_lines_start_this_file_on_this_slice(path: Path):
    _, hardware, head = read(path)
    sweeps = [line for line in head.splitlines() if "memlaw sweep tpu_configs/" in line]
    assert len(sweeps) >= 2 and all(f"memlaw sweep tpu_configs/{path.name} " in line for line in sweeps)
    assert f"memlaw check tpu_configs/{path.name}" in head
    if hardware.chip.platform != "tpu":
        return
    through_google, through_xpk, by_hand = sweeps
    many = hardware.hosts > 1
    assert "gcloud" in through_google and "--worker=all" in through_google and "xpk workload create" in through_xpk
    # on GKE a slice of 8 chips is two machines
    assert ("--distributed" in through_google) == many and "--distributed" in through_xpk
    assert f"--accelerator-type={hardware.accelerator_type} " in head
    assert f"--tpu-type={hardware.accelerator_type} --num-slices={hardware.slices} " in through_xpk
    assert "gs://" in through_google and "gs://" in through_xpk
    assert (f"--coordinator HOST:8476 --processes {hardware.hosts} --process I" in by_hand) == many


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v5e-16_qwen3-8b_long_context", "v6e-8_llama-3.1-8b_phonebook", "smoke_embedded"])
def test_a_file_fits_its_slice_and_its_chips_send_nothing(name: str, child_environment: dict[str, str], python: str):
    pytest.importorskip("libtpu")
    code, told, error = compiled(python, child_environment, str(FOLDER / f"{name}.yaml"))
    assert code == 0, error
    assert told["compiled"] and told["fits"] and told["collectives"] == []
    # a phone book's samples are shorter than a kernel's block
    assert "phonebook" in name or told["step"]["kernels"] > 0


@pytest.mark.slow
def test_sixteen_times_the_lanes_are_refused_for_their_memory(child_environment: dict[str, str], python: str):
    pytest.importorskip("libtpu")
    path = str(FOLDER / "v5e-16_qwen3-8b_long_context.yaml")
    words = (path, "lanes=256", f"seeds={list(range(16))}", "lengths=[10000]")
    code, told, error = compiled(python, child_environment, *words)
    assert code != 0 and not told["fits"]
    assert told["memory_a_chip"]["total"] > told["memory_a_chip"]["usable"]
    assert re.search(r"does not fit v5e-16: a step of 256 lanes needs [\d.]+ GiB a chip, and a TPU v5e gives", error)
