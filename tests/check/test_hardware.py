"""The table of machines against arithmetic that it must obey, and names that are mistakes."""

from __future__ import annotations

import math

import pytest

from memlaw_jax.check.hardware import GIB, NAMES, find_hardware
from memlaw_jax.errors import UserError


@pytest.mark.parametrize("name", NAMES)
def test_a_machine_has_as_many_chips_as_its_shape_and_its_name_say(name: str):
    found = find_hardware(name)
    assert found.name == name and found.slices == 1
    if found.topology:
        kind, shape = found.topology.split(":")
        assert math.prod(int(size) for size in shape.split("x")) == found.chips
        cores = 2 if kind in ("v4", "v5p") else 1
        assert name == f"{kind}-{cores * found.chips}"
        assert found.accelerator_type.replace("v5litepod", "v5e") == name
    assert found.hosts * found.chips_a_host == found.chips
    assert found.chip.usable <= found.chip.memory * 1.01  # libtpu grants a v5p 95.74 GiB of what is sold as 95


def test_v4_counts_cores_in_its_name_and_v5e_does_not():
    assert find_hardware("v4-32").chips == find_hardware("v5p-32").chips == 16 == find_hardware("v5e-16").chips
    assert find_hardware("v5e-8").hosts == 1 and find_hardware("v5e-16").hosts == 4


def test_several_slices_multiply_chips_hosts_and_price():
    one, two = find_hardware("v5e-16"), find_hardware("2xv5e-16")
    assert (two.slices, two.chips, two.hosts, two.topology) == (2, 32, 8, one.topology)
    assert one.price is not None and two.price == 2 * one.price
    assert find_hardware("h100-8").price is None


def test_memory_is_in_bytes():
    assert find_hardware("v5e-16").chip.usable == 15.75 * GIB


@pytest.mark.parametrize("name", ["", "v5e", "v5e-3", "v3-8", "0xv5e-16", "2x", "xv5e-16", "v5e-16 ", "V5E-16"])
def test_an_unknown_machine_is_refused_with_those_that_are_known(name: str):
    with pytest.raises(UserError, match=r"v5e-1/4/8/16.*h200-1/8.*2xv5e-16"):
        find_hardware(name)


@pytest.mark.parametrize("name", ["2xh100-8", "2xv4-32"])
def test_slices_without_a_known_network_are_refused(name: str):
    with pytest.raises(UserError, match="several slices"):
        find_hardware(name)
