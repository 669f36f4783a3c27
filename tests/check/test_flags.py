"""Groups of compiler flags: known to the compilers, and joined with what is set already."""

from __future__ import annotations

import subprocess

import pytest

from memlaw_jax.check.flags import GROUPS, VARIABLES, flag_environment
from memlaw_jax.errors import UserError

GPU = """
import jax
assert jax.jit(lambda x: x + 1)(1) == 2
"""
TPU = """
import jax, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from memlaw_jax.check.hardware import find_hardware
from memlaw_jax.check.topology import slice_devices
mesh = Mesh(slice_devices(find_hardware("v5e-8")), "x")
shape = jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("x")))
jax.jit(lambda x: x.sum(axis=0)).lower(shape).compile()
"""


def compiled(python: str, environment: dict[str, str], code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True)


def everything(platform: str) -> dict[str, str]:
    return flag_environment(tuple(GROUPS), platform, {})


def test_xla_knows_every_gpu_flag(child_environment: dict[str, str], python: str):
    flags = everything("gpu")
    assert compiled(python, child_environment | flags, GPU).returncode == 0
    flags["XLA_FLAGS"] += " --xla_gpu_of_our_own=true"
    assert compiled(python, child_environment | flags, GPU).returncode != 0


def test_libtpu_knows_every_tpu_flag(child_environment: dict[str, str], python: str):
    pytest.importorskip("libtpu")
    flags = everything("tpu")
    found = compiled(python, child_environment | flags, TPU)
    assert found.returncode == 0, found.stderr
    flags["LIBTPU_INIT_ARGS"] += " --xla_tpu_of_our_own=true"
    assert compiled(python, child_environment | flags, TPU).returncode != 0


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_says_what_it_does_and_when_it_helps(name: str):
    group = GROUPS[name]
    assert group.does and group.helps and group.platform in VARIABLES
    assert all(flag.startswith("--xla_") and "=" in flag for flag in group.flags)


def test_what_is_set_already_wins_and_stays():
    before = {"LIBTPU_INIT_ARGS": "--xla_latency_hiding_scheduler_rerun=2 --other=1"}
    assert flag_environment(("less-memory",), "tpu", before) == {}
    both = flag_environment(("less-memory", "slices"), "tpu", before)["LIBTPU_INIT_ARGS"].split()
    assert both[:2] == before["LIBTPU_INIT_ARGS"].split() and both[2:] == list(GROUPS["slices"].flags)


def test_a_flag_of_two_groups_is_given_once():
    flags = flag_environment(("overlap-gather", "overlap-reduce"), "tpu", {})["LIBTPU_INIT_ARGS"].split()
    assert len(flags) == len(set(flags)) == 6


def test_groups_of_another_platform_are_left_out():
    assert flag_environment(("gpu-overlap",), "tpu", {}) == {} == flag_environment(("slices",), "cpu", {})


def test_an_unknown_group_is_refused():
    with pytest.raises(UserError, match=r"overlap-all.*overlap-gather"):
        flag_environment(("overlap-all",), "tpu", {})
