"""Trains a run: records, displays and audits each MetricsEvent, and writes checkpoints."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console

from recipe.audit.auditor import Audit, AuditError, AuditResult
from recipe.audit.expected_training import ExpectedTraining
from recipe.checkpoint import state
from recipe.checkpoint.files import Checkpoints
from recipe.formatting import relative_to_cwd
from recipe.nn.locate_nonfinite import find_nonfinite_weight
from recipe.nn.weights import save_weights
from recipe.runner.plan import Plan
from recipe.runner.progress import ProgressDisplay
from recipe.runner.recorder import NullRecorder, Recorder
from recipe.runner.signals import GracefulStop
from recipe.runner.trick_effects import MetricHistory, build_audit_table
from recipe.store import run_dirs
from recipe.training.loop import MetricsEvent, train
from recipe.training.nonfinite import NonFiniteError

WEIGHTS_FILE = "model.safetensors"

UNREADABLE_FILES_LIST = "left_out.txt"


@dataclass(frozen=True)
class TrainingResult:
    history: MetricHistory
    verdicts: Sequence[AuditResult]
    late_signal: int | None
    """The signal that arrived after the last step."""


def fit(
    recorder: Recorder | NullRecorder,
    plan: Plan,
    console: Console,
    *,
    checkpoint_state: state.RunState | None = None,
    on_point: Callable[[MetricsEvent], None] | None = None,
) -> TrainingResult:
    """Trains to the end, from `checkpoint_state` if it is given, a checkpoint of this run.

    `on_point` is called with each event after it is recorded, and may raise RunPruned.

    SIGINT and SIGTERM stop the run after the current step, with a checkpoint. Raises NonFiniteError
    and AuditError after recording them.
    """
    try:
        with plan.run.collectives.translate_peer_errors():
            return _FitLoop(recorder, plan, console).fit(checkpoint_state, on_point)
    except NonFiniteError as error:
        error.set_resume_hint(_describe_recovery_points(recorder, plan))
        if plan.run.best.epoch:
            recorder.log_artifact(WEIGHTS_FILE)
        recorder.log_text("nonfinite.json", json.dumps(error.to_dict(), indent=2) + "\n")
        raise
    except AuditError as error:
        console.print(build_audit_table(error.results))
        raise


def _describe_recovery_points(recorder: Recorder | NullRecorder, plan: Plan) -> str:
    """The last good checkpoint and the best weights, in words."""
    found = []
    if written := Checkpoints(recorder.run_dir, plan.spec.checkpoint).paths():
        resume = run_dirs.format_command(
            f"resume {recorder.run_id} key=value", recorder.run_dir.parent.parent
        )
        found.append(f"the last good checkpoint is {relative_to_cwd(written[-1])} ({resume})")
    if best := plan.run.best.epoch:
        weights = relative_to_cwd(recorder.run_dir / WEIGHTS_FILE)
        found.append(f"the best weights are {weights} (epoch {best})")
    return ", ".join(found) or "no weights are kept yet, as no epoch had been evaluated"


class _FitLoop:
    def __init__(self, recorder: Recorder | NullRecorder, plan: Plan, console: Console) -> None:
        self.recorder, self.plan, self.run, self.console = recorder, plan, plan.run, console
        self.checkpoints = Checkpoints(recorder.run_dir, plan.spec.checkpoint)
        expected = ExpectedTraining.from_spec(
            plan.spec, plan.run.components, plan.run.model, plan.run.steps_per_epoch
        )
        plan.run.collectives.before_training(plan.run)
        self.audit = Audit(plan.spec, plan.run, expected)
        self.verdicts: list[AuditResult] = []
        self.history: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.unreadable_count = 0.0
        """Number of files listed in UNREADABLE_FILES_LIST."""

    def fit(
        self, saved: state.RunState | None, on_point: Callable[[MetricsEvent], None] | None
    ) -> TrainingResult:
        with self.audit, GracefulStop() as stopping:
            if saved is not None:
                self._restore_state(saved)
            if self.run.best.epoch:  # the file may be from another run or a later epoch
                self._save_weights()
            self.checkpoints.last_step = self.run.position.step
            with ProgressDisplay(self.run, self.console) as display:
                for point in _raise_pending_signal(stopping, train(self.run)):
                    for key, value in point.metrics.items():
                        self.history[key].append((point.step, value))
                    self._record_point(point)
                    display.update(point)
                    step = self.run.position.step
                    requested = point.step == step and self._is_stop_requested(stopping)
                    is_due = requested or self.checkpoints.is_due(point, self.run)
                    if is_due and self._has_finite_weights():
                        self._save_checkpoint()
                    if requested and not point.is_run_end and step != self.run.total_steps:
                        stopping.raise_signal()  # otherwise at most the last evaluation is left
                    if on_point is not None:
                        on_point(point)
            if not self.verdicts:  # it was resumed after its last step
                self.verdicts = list(self.audit.results(is_final=True))
        return TrainingResult(self.history, self.verdicts, stopping.received_signal)

    def _is_stop_requested(self, stopping: GracefulStop) -> bool:
        """Whether one of the run's processes received a signal."""
        if requested := self.run.collectives.all_reduce_max(stopping.received_signal or 0):
            stopping.received_signal = requested
        return requested > 0

    def _restore_state(self, saved: state.RunState) -> None:
        state.restore_state(self.run, saved["run"])
        self.audit.load_state_dict(saved["audit"])
        for key, count in saved["recorded"].items():
            self.history[key] = sorted(self.recorder.recorded_metrics.get(key, {}).items())[:count]

    def _record_point(self, point: MetricsEvent) -> None:
        self.recorder.log_metrics(point.step, point.metrics)
        if point.is_best:
            self._save_weights()
        if point.metrics.get("data/skipped", 0) > self.unreadable_count:
            self.unreadable_count = point.metrics["data/skipped"]
            parts = (self.run.data.train, self.run.data.val)
            lines = sorted(f"{reason}\n" for part in parts for reason in part.unreadable.values())
            self.recorder.log_text(UNREADABLE_FILES_LIST, "".join(lines))
        if found := self.audit.check(point):
            self.verdicts = found
            self.recorder.log_metrics(
                point.step, {f"audit/{v.group}": float(v.has_passed) for v in found}
            )
            if not all(verdict.has_passed for verdict in found):
                raise AuditError(found)

    def _has_finite_weights(self) -> bool:
        """If not, the next step stops the run, and the last checkpoint stays the last good one."""
        return self.run.collectives.first_not_none(find_nonfinite_weight(self.run.model)) is None

    def _save_weights(self) -> None:
        self.recorder.write_file(
            WEIGHTS_FILE, lambda path: save_weights(self.run.best.weights, path)
        )

    def _save_checkpoint(self) -> None:
        content = {
            "run": state.capture_state(self.run),
            "audit": state.to_plain_data(self.audit.state_dict(), "audit"),
            "recorded": {key: len(points) for key, points in self.history.items()},
        }
        self.recorder.fsync()  # a checkpoint must not be ahead of the journal
        if self.run.collectives.is_main:
            self.checkpoints.save(content)
        self.checkpoints.last_step = self.run.position.step


def _raise_pending_signal(
    stopping: GracefulStop, points: Iterator[MetricsEvent]
) -> Iterator[MetricsEvent]:
    """Raises a received signal instead of errors that it caused, such as those of workers."""
    try:
        yield from points
    except Exception:
        stopping.raise_signal()
        raise
