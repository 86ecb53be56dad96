"""The range test: what it suggests, by hand; and that it leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import commands
import numpy as np
import pytest
import torch

from recipe.checkpoint import state
from recipe.runner.lr_finder import LRRangeTest, run_lr_range_test
from recipe.training.loop import train
from recipe.training.run import Run

Build = Callable[..., Run]


def flat(value: object, found: list[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors and numbers of a state, in order."""
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            if key != "seconds":
                flat(value[key], found)
    elif isinstance(value, list | tuple):
        for item in value:
            flat(item, found)
    elif isinstance(value, torch.Tensor):
        found.append(value)
    elif isinstance(value, int | float):
        found.append(torch.tensor(float(value)))
    return found


def losses(run: Run) -> list[float]:
    return [point.metrics["train/loss"] for point in train(run) if not point.is_epoch_end]


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.dropout=0.5", "average=ema", "augment=flip_crop"),
        ("optimizer=adam", "scheduler=one_cycle", "param_groups=head_faster"),
        ("freeze=gradual", "freeze.stages=[{epoch: 1, names: ['*2_*']}]", "average=swa"),
        ("freeze=all_but_head", "scheduler=plateau", "epochs=3"),
    ],
)
def test_lr_range_test_leaves_following_training_unchanged(
    built: Build, overrides: tuple[str, ...]
) -> None:
    tested, plain = built(*overrides), built(*overrides)
    found = run_lr_range_test(tested, 0.05, min_lr=1e-4, max_lr=1.0, steps=12)
    assert len(set(found.losses)) > 2  # something was trained
    before, after = (flat(state.capture_state(run), []) for run in (plain, tested))
    assert len(before) == len(after) > 50
    assert all(map(torch.equal, before, after))
    assert losses(tested) == losses(plain)


def test_lr_range_test_increases_rates_by_equal_factors(built: Build) -> None:
    found = run_lr_range_test(built("optimizer.lr=0.01"), 0.01, min_lr=1e-4, max_lr=0.1, steps=16)
    assert not found.has_diverged and len(found.losses) == 16
    # three decades in 15 equal factors of 10 ** 0.2
    assert found.learning_rates == pytest.approx([1e-4 * 10 ** (0.2 * n) for n in range(16)])


def test_lr_range_test_losses_are_unchanged_at_negligible_rates(built: Build) -> None:
    """At rates too small to matter, the losses are those of the weights as they are."""
    found = run_lr_range_test(built(), 0.05, min_lr=1e-30, max_lr=1e-29, steps=12)
    again = run_lr_range_test(built(), 0.05, min_lr=1e-28, max_lr=1e-27, steps=12)
    assert found.losses == again.losses and found.steepest_step is not None
    assert (
        run_lr_range_test(built(), 0.05, min_lr=1e-3, max_lr=0.1, steps=12).losses != found.losses
    )


def test_steepest_step_is_at_the_steepest_loss_decrease() -> None:
    rates = [10.0 ** (-6 + n / 10) for n in range(61)]
    # a smooth step down around 1e-3 (n = 30), and up again from 1e-1 on
    course = [2 - 1 / (1 + np.exp(-(n - 30) / 3)) + max(0, n - 50) for n in range(61)]
    found = LRRangeTest(rates, course, has_diverged=False)
    assert found.steepest_step == 30
    assert found.lowest_loss_step == pytest.approx(47, abs=2)


def test_losses_are_smoothed_with_a_centred_window() -> None:
    # 6 % of 17 steps is one on either side; two values at the ends
    course = [float(n % 3) for n in range(17)]
    smoothed = LRRangeTest([1.0] * 17, course, has_diverged=False).smoothed_losses
    assert smoothed[:4] == pytest.approx([0.5, 1.0, 1.0, 1.0])
    assert smoothed[-1] == pytest.approx((0 + 1) / 2)


def test_no_learning_rate_is_suggested_if_the_loss_only_rises() -> None:
    found = LRRangeTest([1e-3, 1e-2, 1e-1, 1.0], [1.0, 2.0, 3.0, 4.0], has_diverged=True)
    assert found.steepest_step is None


def test_lr_range_test_stops_if_the_loss_diverges(built: Build) -> None:
    found = run_lr_range_test(built(), 0.05, min_lr=1e-3, max_lr=1e6, steps=60)
    assert found.has_diverged and len(found.losses) < 60


def test_find_lr_suggests_a_learning_rate_and_plots_the_loss(tmp_path: Path) -> None:
    quick = [text for text in commands.QUICK if not text.startswith("epochs")]
    done = commands.run(
        tmp_path, "find-lr", *quick, "param_groups=head_faster", "optimizer.lr=0.5", "steps=20",
        "from=1e-4", "to=1",
    )  # fmt: skip
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("20 steps, optimizer.lr from 0.0001 to 1")
    (suggests,) = [line for line in lines if line.startswith("Suggests optimizer.lr=")]
    rate = float(suggests.partition("=")[2].partition(",")[0])
    (groups,) = [line for line in lines if "the same factor for every group" in line]
    body, head = (float(word.split(" ")[1]) for word in groups.partition(": ")[2].split(", "))
    assert body == pytest.approx(rate)
    assert head == pytest.approx(10 * rate, rel=0.05)  # both were rounded
    (tries,) = [line for line in lines if line.startswith("Try it")]
    assert "optimizer.lr=0.5" not in tries and tries.endswith(f"optimizer.lr={rate:.2g}")
    (figure,) = (tmp_path / "outputs" / "reports").glob("find-lr-*.png")
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "outputs" / "runs").exists()  # it is no run


def test_invalid_arguments_are_rejected(tmp_path: Path) -> None:
    for given, told in {
        "from=x": "find-lr: from must be a number, got 'x'; write from=<number>",
        "steps=1.5": "find-lr: steps must be a whole number, got '1.5'; write steps=<number>",
        "steps=5": "find-lr: steps must be at least 10, got 5",
        "optimizer.lr=0": "find-lr: optimizer.lr is 0, so no rate is a multiple of it; give "
        "another",
        "from=10": "find-lr: from must be above 0 and below to, got from=10 to=10",
    }.items():
        done = commands.run(tmp_path, "find-lr", *commands.QUICK, given)
        assert (done.status, done.problems) == (2, [f"recipe: {told}"])
        assert not (tmp_path / "outputs").exists()
