"""Early stopping: when, and that a run that stops is whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from recipe.audit.auditor import Audit
from recipe.checkpoint import state
from recipe.components.stop.early import early
from recipe.config.spec import RunSpec
from recipe.training import build
from recipe.training.loop import MetricsEvent, train
from recipe.training.run import Run


@pytest.mark.parametrize(
    ("accuracies", "stops_after"),
    [
        ([0.5, 0.6, 0.6, 0.6], 4),  # two epochs in a row without a rise
        ([0.5, 0.4, 0.6, 0.5, 0.7, 0.7], None),  # a rise in time, twice
        ([0.5, 0.505, 0.509, 0.7], 3),  # rises of less than 0.01 don't count
        ([0.5, 0.508, 0.516, 0.516, 0.516], 5),  # two small ones together are one
        ([0.5], None),
    ],
)
def test_early_stopping_waits_for_patience_epochs_without_improvement(
    accuracies: list[float], stops_after: int | None
) -> None:
    stopped = [
        count for count in range(1, len(accuracies) + 1)
        if early(accuracies[:count], patience=2, min_delta=0.01)
    ]  # fmt: skip
    assert stopped[:1] == ([stops_after] if stops_after else [])


NEVER_RISES = ("stop=early", "stop.patience=2", "optimizer.lr=1e-12", "epochs=9")
"""So small a learning rate that no epoch changes the accuracy."""


def followed(
    spec: RunSpec, run: Run
) -> tuple[list[MetricsEvent], dict[str, str | None], list[str]]:
    with Audit(spec, run) as audit:
        points = list(train_audited(audit, run))
    verdicts = list(audit.results(is_final=True))
    return (
        points,
        {v.group: v.no_effect_reason for v in verdicts},
        [problem for v in verdicts for problem in v.problems],
    )


def train_audited(audit: Audit, run: Run) -> list[MetricsEvent]:
    points = []
    for point in train(run):
        audit.check(point)
        points.append(point)
    return points


def test_early_stopped_run_passes_audit(small: Callable[..., RunSpec]) -> None:
    spec = small(*NEVER_RISES)
    run = build.build(spec)
    points, no_effect, broken = followed(spec, run)
    assert (points[-1].epoch, points[-1].is_run_end, run.position.epoch) == (3, True, 3)
    assert [p.epoch for p in points if p.is_run_end] == [3]
    assert broken == [] and no_effect["stop"] is None
    assert list(train(run)) == []  # it is over


def test_early_stopped_run_does_not_train_after_restore(small: Callable[..., RunSpec]) -> None:
    run = build.build(small(*NEVER_RISES))
    points = list(train(run))
    saved = state.capture_state(run)
    again = build.build(small(*NEVER_RISES))
    state.restore_state(again, saved)
    assert list(train(again)) == [] and len(points) == 3 * (3 + 1)
    half = build.build(small(*NEVER_RISES))
    for point in train(half):
        if point.epoch == 2 and not point.is_epoch_end:
            break
    resumed = build.build(small(*NEVER_RISES))
    state.restore_state(resumed, state.capture_state(half))
    assert list(train(resumed))[-1].epoch == 3


def test_run_without_early_stop_reports_no_effect(small: Callable[..., RunSpec]) -> None:
    spec = small("stop=early", "stop.patience=5")
    points, no_effect, broken = followed(spec, build.build(spec))
    assert points[-1].epoch == 2 and points[-1].is_run_end
    assert no_effect["stop"] == "it never stopped the run" and broken == []


def test_audit_reports_a_run_stopped_without_reason(small: Callable[..., RunSpec]) -> None:
    spec = small("epochs=3")
    run = build.build(spec)
    run.stop = lambda accuracies: len(accuracies) == 2
    _, _, broken = followed(spec, run)
    assert broken == ["the run ended after 2 epochs for no reason (batch 6)"]
