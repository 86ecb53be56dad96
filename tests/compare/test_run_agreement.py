"""Whether two runs' numbers agree: bit for bit, nearly, or not from some step on, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import recorded_runs
from hypothesis import given
from hypothesis import strategies as st

from recipe.compare import run_agreement
from recipe.compare.run_agreement import Agreement, compare_runs
from recipe.errors import SpecError

Values = Sequence[float | None]

LOSS = [1.0, 0.5, 0.25]


def pair(
    folder: Path, one: Values, other: Values, weights: Sequence[float] | None = None
) -> Agreement:
    """The agreement of two runs with these values of train/loss."""
    runs = [
        recorded_runs.write(
            folder / name, {"train/loss": values, "time/epoch_s": [index]}, weights=weights
        )
        for index, (name, values) in enumerate((("one", one), ("other", other)))
    ]
    return compare_runs(*runs)


def test_equal_numbers_and_weights_are_bit_identical_despite_timing(tmp_path: Path) -> None:
    found = pair(tmp_path, LOSS, LOSS, weights=[1.0, 2.0])
    assert found.summary == "bit-identical: 3 points of 1 metric and the weights"
    assert (found.verdict, found.first_differing_step, found.largest_difference) == (
        "bit-identical",
        None,
        None,
    )


def test_runs_without_weights_are_compared_by_points_only(tmp_path: Path) -> None:
    assert pair(tmp_path, LOSS, LOSS).summary == "bit-identical: 3 points of 1 metric"


def test_a_difference_in_the_last_bits_is_reported_with_its_size(tmp_path: Path) -> None:
    found = pair(tmp_path, LOSS, [1.0, 0.5 + 2e-8, 0.25 + 1e-9])
    assert found.verdict == "equal within 1e-6"
    assert found.summary == (
        "equal within 1e-6 (largest relative difference 4e-8, train/loss at step 2); no "
        "recorded difference explains it"
    )


def test_a_larger_difference_is_reported_with_its_first_step_and_worst_metric(
    tmp_path: Path,
) -> None:
    one = recorded_runs.write(tmp_path / "one", {"a": LOSS, "b": LOSS, "c": LOSS})
    other = recorded_runs.write(
        tmp_path / "other", {"a": [1.0, 0.5, 0.3], "b": [1.0, 0.53, 0.25], "c": [1.0, 0.6, 0.5]}
    )
    found = compare_runs(one, other)
    assert found.summary.startswith("differs from step 2 on (c 0.5 against 0.6)")
    assert {key: first.step for key, first in found.first_differences.items()} == {
        "a": 3,
        "b": 2,
        "c": 2,
    }
    assert (
        found.largest_difference is not None
        and found.largest_difference.relative_difference == pytest.approx(0.5)
    )


def test_similar_values_are_printed_with_enough_digits_to_distinguish_them(tmp_path: Path) -> None:
    found = pair(tmp_path, [0.123456], [0.123457])
    assert "(train/loss 0.123456 against 0.123457)" in found.summary


def test_differences_near_zero_are_relative_to_the_largest_value(tmp_path: Path) -> None:
    # 1e-10 of 1e-3 times 10 is 1e-8; against the values themselves it would be a half
    found = pair(tmp_path, [10.0, 1e-10], [10.0, 2e-10])
    assert found.verdict == "equal within 1e-6"
    assert (
        found.largest_difference is not None
        and found.largest_difference.relative_difference == pytest.approx(1e-8)
    )


def test_differences_of_uniformly_small_values_count(tmp_path: Path) -> None:
    assert pair(tmp_path, [1e-10], [2e-10]).verdict == "differs"


@given(
    st.lists(st.floats(allow_subnormal=True), min_size=1, max_size=5),
    st.lists(st.floats(allow_subnormal=True), min_size=1, max_size=5),
)
def test_values_are_bit_identical_exactly_if_they_are_equal(
    one: list[float], other: list[float]
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        found = pair(Path(folder), one, other)
    alike = all(
        (a == b and math.copysign(1, a) == math.copysign(1, b)) or (math.isnan(a) and math.isnan(b))
        for a, b in zip(one, other, strict=False)
    )
    assert (found.verdict == "bit-identical") == alike
    assert "\n" not in found.summary


@pytest.mark.parametrize("other", [math.nan, math.inf, -math.inf])
def test_a_non_finite_value_is_a_difference(tmp_path: Path, other: float) -> None:
    found = pair(tmp_path, [1.0, 2.0], [1.0, other])
    assert found.summary.startswith(f"differs from step 2 on (train/loss 2 against {other})")


def test_point_missing_from_one_run_counts_as_difference(tmp_path: Path) -> None:
    found = pair(tmp_path, LOSS, [1.0, None, 0.25])
    assert found.summary.startswith("differs from step 2 on (train/loss 0.5 against none)")


def test_metric_missing_from_one_run_is_named(tmp_path: Path) -> None:
    one = recorded_runs.write(tmp_path / "one", {"a": LOSS, "b": [1.0]})
    other = recorded_runs.write(tmp_path / "other", {"a": LOSS, "c": LOSS, "d": LOSS})
    found = compare_runs(one, other)
    assert found.summary.startswith(
        "differs, but 3 points of 1 metric agree; only the first has b; only the second has c, d"
    )
    assert (found.verdict, found.unmatched_metrics) == ("differs", (("b",), ("c", "d")))


@pytest.mark.parametrize("status", ["KILLED", "FAILED", "RUNNING"])
def test_unfinished_run_is_compared_up_to_its_last_step(tmp_path: Path, status: str) -> None:
    one = recorded_runs.write(tmp_path / "one", {"a": LOSS, "b": [None, 2.0]}, weights=[1.0])
    other = recorded_runs.write(
        tmp_path / "other", {"a": LOSS[:2]}, status=status, weights=[2.0]
    )  # killed between two points of step 2
    assert compare_runs(one, other).summary == (
        f"bit-identical: 2 points of 1 metric; compared up to step 2, where the second ended "
        f"({status})"
    )
    assert "where the first ended" in compare_runs(other, one).summary


def test_runs_are_compared_up_to_the_end_of_the_shorter_one(tmp_path: Path) -> None:
    sentence = pair(tmp_path, LOSS, LOSS[:1]).summary
    assert sentence == (
        "bit-identical: 1 point of 1 metric; compared up to step 1, where the second ended"
    )


def test_runs_without_a_common_point_do_not_agree(tmp_path: Path) -> None:
    found = pair(tmp_path, LOSS, [])
    assert found.verdict == "differs"
    assert found.summary.startswith("nothing to compare: the runs have no point in common")


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (
            [4.0, 1.0, 2.0],
            "differs in the weights, by 2e-1 of the tensor's largest value",
        ),  # by 1 of 4
        ([4.0, 1.0 + 2e-7, 1.0], "equal within 1e-6 (largest relative difference of the weights"),
        ([4.0, 1.0], "differs in the weights, by inf of the tensor's largest value"),
    ],
)
def test_equal_numbers_do_not_hide_different_weights(
    weights: list[float], said: str, tmp_path: Path
) -> None:
    one = recorded_runs.write(tmp_path / "one", {"a": LOSS}, weights=[4.0, 1.0, 1.0])
    other = recorded_runs.write(tmp_path / "other", {"a": LOSS}, weights=weights)
    assert compare_runs(one, other).summary.startswith(said)


def test_possible_causes_of_a_difference_are_named(tmp_path: Path) -> None:
    one = recorded_runs.write(
        tmp_path / "one", {"a": [1.0]}, digest="x",
        tags={"version.torch": "2.12.0", "version.mlflow": "3", "version.timm": "1",
              "code.mine": "0" * 64},
        environment=f"device: A (1 threads)\nthreads: 1\ngit: {'a' * 40}\n",
    )  # fmt: skip
    other = recorded_runs.write(
        tmp_path / "other", {"a": [2.0]}, digest="y",
        tags={"version.torch": "2.13.0", "version.mlflow": "4", "version.numpy": "2",
              "code.mine": "1" * 64},
        environment=f"device: B (2 threads)\nthreads: 2\ngit: {'a' * 40}-dirty\n",
    )  # fmt: skip
    assert compare_runs(one, other).summary == (
        "differs from step 1 on (a 1 against 2); data differ; torch 2.12.0 -> 2.13.0; "
        "numpy none -> 2; timm 1 -> none; code of mine changed; device A -> B; threads 1 -> 2; "
        "git aaaaaaa -> aaaaaaa with changes"
    )


@pytest.mark.parametrize(
    "line",
    ['{"step": 1}', '{"step": "x", "metrics": {"a": 1}}', "[1]", "{",
     '{"step": 1, "metrics": {"a": "text"}}', '{"step": 1, "metrics": [1]}', "[" * 100_000,
     '{"step": 1, "metrics": {"a": 1' + "0" * 400 + "}}"],
)  # fmt: skip
def test_damaged_metrics_are_reported(line: str, tmp_path: Path) -> None:
    one = recorded_runs.write(tmp_path / "one", {"a": LOSS})
    (one / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(SpecError, match=r"^one: metrics\.jsonl: .*its numbers can't be compared$"):
        compare_runs(one, recorded_runs.write(tmp_path / "other", {"a": LOSS}))


def test_the_tolerance_is_the_one_in_the_verdict() -> None:
    assert run_agreement.TOLERANCE == 1e-6
