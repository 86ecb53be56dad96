"""Warm-up in front of any schedule: numbers, ratios, resuming."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from recipe.audit.auditor import Audit
from recipe.checkpoint import state
from recipe.components.warmup.linear import linear
from recipe.config.spec import RunSpec
from recipe.errors import SpecError
from recipe.training import build
from recipe.training.loop import train
from recipe.training.run import Run

WARM = ("warmup=linear", "warmup.share=0.5", "warmup.start=0.25")
"""Of 6 steps 3: factors 0.25, 0.5, 0.75, then 1."""


def rates(run: Run, group: str = "all") -> list[float]:
    points = [point for point in train(run) if not point.is_epoch_end]
    return [point.metrics[f"lr/{group}"] for point in points]


def test_warmup_factor_rises_linearly_and_stays_at_one() -> None:
    factors = [linear(step / 10, share=0.4, start=0.2) for step in range(7)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("scheduler", "plain"),
    [
        (["scheduler=constant"], [1, 1, 1, 1, 1, 1]),
        (["scheduler=step", "scheduler.step_size=1", "scheduler.gamma=0.5"],  # every epoch
         [1, 1, 1, 0.5, 0.5, 0.5]),
        (["scheduler=exponential", "scheduler.per=step", "scheduler.gamma=0.5"],
         [1, 0.5, 0.25, 0.125, 0.0625, 0.03125]),
        (["scheduler=plateau", "scheduler.patience=0", "scheduler.factor=0.5",
          "optimizer.momentum=0", "scheduler.threshold=0.999"],  # no epoch is better by that much
         [1, 1, 1, 1, 1, 1]),
    ],
    ids=lambda value: value[0] if isinstance(value[0], str) else "",
)  # fmt: skip
def test_warmup_multiplies_the_rates_of_any_scheduler(
    built: Callable[..., Run], scheduler: list[str], plain: list[float]
) -> None:
    lr = 0.01
    found = rates(built(*WARM, *scheduler, f"optimizer.lr={lr}"))
    ramp = [0.25, 0.5, 0.75, 1, 1, 1]
    assert found == pytest.approx([lr * p * f for p, f in zip(plain, ramp, strict=True)])


def test_learning_rate_ratios_are_kept_and_pass_the_audit(small: Callable[..., RunSpec]) -> None:
    spec = small(*WARM, "param_groups=head_faster", "scheduler=cosine")
    run = build.build(spec)
    with Audit(spec, run) as audit:
        for point in train(run):
            audit.check(point)
            if not point.is_epoch_end:
                m = point.metrics
                assert m["lr/head"] == pytest.approx(10 * m["lr/body"])
    verdicts = {v.group: v for v in audit.results(is_final=True)}
    assert all(v.has_passed for v in verdicts.values())
    assert verdicts["warmup"].description == "learning rates times 0.25 to 1 in 3 steps"


def test_audit_reports_a_missing_warmup(small: Callable[..., RunSpec]) -> None:
    spec = small(*WARM)
    run = build.build(spec)
    run.optimizer.param_groups[0]["lr"] *= 4
    run.lr_schedule.warmup_factors = ()
    with Audit(spec, run) as audit:
        for point in train(run):
            audit.check(point)
    broken = next(v for v in audit.results(is_final=True) if v.group == "scheduler").problems
    assert broken[0] == "lr/all is 0.05 after 0 scheduler steps, not 0.0125 (batch 1)"


@pytest.mark.parametrize("scheduler", ["constant", "step", "plateau"])
def test_a_run_resumed_during_the_warm_up_has_the_same_learning_rates(
    small: Callable[..., RunSpec], scheduler: str
) -> None:
    spec = small(*WARM, f"scheduler={scheduler}")
    whole = rates(build.build(spec))
    half = build.build(spec)
    points = train(half)
    begun = [next(points).metrics["lr/all"] for _ in range(2)]
    resumed = build.build(spec)
    state.restore_state(resumed, state.capture_state(half))
    assert begun + rates(resumed) == whole


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("warmup=linear", "scheduler=one_cycle"),
         "warmup=linear doesn't go with scheduler=one_cycle, which has its own warm-up; "
         "use warmup=none, or scheduler=cosine"),
        (("warmup=linear", "warmup.share=0.1"),
         "warmup.share is 0.1 of 6 steps, less than one step; use at least 0.17, or more epochs"),
        (("warmup=linear", "warmup.share=0.9"),
         "warmup=linear doesn't end before the run: its factor is 0.926667 at the last of 6 "
         "steps; use a smaller share of the run, or more epochs"),
    ],
)  # fmt: skip
def test_a_warm_up_that_does_not_fit_is_refused(
    built: Callable[..., Run], overrides: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(SpecError) as caught:
        built(*overrides)
    assert problem in caught.value.problems
