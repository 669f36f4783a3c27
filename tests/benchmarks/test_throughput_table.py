"""Ratios, shares, targets and the table of the throughput benchmark, from numbers made up for them."""

from __future__ import annotations

from typing import Any

import pytest
from common.machine import without_places
from throughput import main
from throughput_table import paired, peak, summarise, table, target_lines, targets


def side(name: str, adapters: int, ms: list[float], **more: Any) -> dict[str, Any]:
    return {
        "side": name,
        "adapters": adapters,
        "ms": ms,
        "busy": [1.0] * len(ms),
        "flops_needed": 1e9,
        "flops_own": 1e9,
        **more,
    }


def case(tokens: int = 512, **more: Any) -> dict[str, Any]:
    sides = [
        side("a", 1, [50.0, 60.0, 40.0], flops_own=5e9),
        side("b", 1, [20.0, 24.0, 10.0]),
        side("c", 1, [18.0, 24.0, 9.0], flops_own=2e9),
        side("d", 1, [12.0, 14.0, 7.0]),
        side("d", 16, [10.0, 12.0, 5.0], peak_bytes=3e8, compile_seconds=4.25),
    ]
    return {"tokens": tokens, "answers": tokens - 20, "flops_uncached": 2e9, "sides": sides, **more}


def test_ratios_are_paired_within_rounds():
    """The machine slows down and speeds up between rounds; what the sides took in the same round is compared."""
    assert paired([50.0, 60.0, 40.0], [10.0, 12.0, 8.0]) == 5.0
    assert paired([1.0, 100.0], [1.0, 100.0]) == 1.0


def test_a_row_has_the_ratios_the_share_and_the_roofline():
    row = summarise(case(), best=2e11)[-1]
    assert row["ms"] == 10.0 and row["spread"] == [5.0, 12.0]
    assert row["tokens_per_second"] == pytest.approx(51_200)
    assert row["useful"] == pytest.approx(0.5)  # 1e9 FLOPs in 10 ms of 2e11 a second
    assert row["ratio"] == {"a": 5.0, "b": 2.0, "c": pytest.approx(1.8)}
    assert row["roofline"] == 2.0 and row["of_roofline"] == pytest.approx(0.9)


def test_the_peak_is_the_best_of_the_run():
    assert peak({"matmul": [{"torch": 1.0, "jax": 3.0}, {"torch": 2.0, "jax": 1.0}]}) == 3.0


def test_the_table_has_a_line_a_side_and_says_what_is_missing():
    full = case()
    full["sides"].append(side("d", 64, [], failed="out of memory: 99 GB"))
    lines = table([full, case(2048, disagrees="the losses differ")], 2e11).splitlines()
    rows = [line for line in lines if line.startswith("| 512")]
    assert len(rows) == 5
    assert len({line.count("|") for line in lines[:7]}) == 1
    assert rows[-1] == (
        "| 512 | d | 16 | 10 (5 to 12) | 51,200 | 50% | 50% | 5.00 | 2.00 | 1.80 | 2.00 | 90% | 300 MB | 4.2 s |"
    )
    assert "- 512 tokens, d with 64: out of memory: 99 GB" in lines
    assert "- 2048 tokens: the losses differ" in lines
    assert not any(line.startswith("| 2048") for line in lines)


def test_targets_are_told_as_met_or_not():
    found = targets([case()], 2e11, gpu=False)
    assert [(one["what"], one["met"]) for one in found] == [
        ("a / d", True), ("b / d", True), ("share of the roofline ratio c / d", True)
    ]  # fmt: skip
    gpu = targets([case(200), case(2000)], 2e11, gpu=True)
    assert [(one["tokens"], one["what"], one["wanted"], one["met"]) for one in gpu] == [
        (200, "a / d", 20.0, False),
        (200, "share of the roofline ratio c / d", 0.7, True),
        (2000, "a / d", 4.5, True),
        (2000, "share of the roofline ratio c / d", 0.7, True),
        (2000, "useful share of the matmul peak", 0.5, True),
    ]
    assert target_lines(gpu)[0] == "200 tokens, a / d: 5.00, wanted ≥ 20: NOT MET"


def test_what_does_not_fit_is_a_target_not_met():
    alone = case(10_000)
    alone["sides"] = [side("d", 16, [], failed="out of memory")]
    (found,) = targets([alone], 2e11, gpu=True)
    assert found["met"] is False


def test_places_of_this_machine_are_left_out():
    assert without_places("--out /tmp/some-where/x.y --a=/work/b/c d/e") == "--out x.y --a=c d/e"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tokens", "3"], "--tokens has 3; give numbers of 16 or more."),
        (["--adapters", "0"], "--adapters has 0"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--scale", "70b"], "invalid choice"),
        (["--scale", "8b"], "invalid choice: '8b'"),
        (["--core", "4096"], "--core is 4096"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_jax_has_the_gpu_where_ours_runs_alone_and_lengths_are_not_mixed():
    from throughput import _alone, parser
    from throughput_machine import Mistake

    def alone(*arguments: str) -> bool:
        return _alone(parser().parse_args(["--scale", "paper", *arguments]))

    assert not alone() and not alone("--tokens", "500", "2000")
    assert alone("--tokens", "10000") and alone("--tokens", "500", "2000", "--alone", "100")
    with pytest.raises(Mistake, match="up to and beyond 2000"):
        alone("--tokens", "500", "10000")
