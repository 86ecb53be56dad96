"""A run while it trains: every Point recorded, shown and audited, checkpoints written."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator

from rich.console import Console

from recipe.audit.auditor import Audit, BrokenPromise, Verdict
from recipe.audit.expected import Expected
from recipe.checkpoint import state
from recipe.checkpoint.files import Checkpoints
from recipe.components.data import unread
from recipe.formatting import relative
from recipe.nn.locate_nonfinite import unsound
from recipe.nn.weights import save_weights
from recipe.runner.interruption import Stopping
from recipe.runner.null_recorder import Unrecorded
from recipe.runner.plan import Plan
from recipe.runner.progress import Follow
from recipe.runner.recorder import Recorder
from recipe.runner.run_summary import Outcome, audit_table
from recipe.store import run_dirs
from recipe.training.loop import Point, train
from recipe.training.nonfinite import NonFinite


def train_recorded(
    recorder: Recorder | Unrecorded,
    plan: Plan,
    console: Console,
    *,
    saved: state.State | None = None,
    watch: Callable[[Point], None] | None = None,
) -> Outcome:
    """Trains to the end, from `saved` on if it is given, which a checkpoint of this run holds.

    `watch` sees every Point once it is recorded, and may raise Pruned.

    Ctrl-C and SIGTERM wait for the end of a step, and leave a checkpoint. Raises NonFinite and
    BrokenPromise, recorded and shown in full.
    """
    try:
        with plan.run.ranks.together():
            return _Training(recorder, plan, console).follow(saved, watch)
    except NonFinite as error:
        error.keep(_good(recorder, plan))
        if plan.run.best.epoch:
            recorder.artifact(WEIGHTS)
        recorder.text("nonfinite.json", json.dumps(error.facts(), indent=2) + "\n")
        raise
    except BrokenPromise as error:
        console.print(audit_table(error.verdicts))
        raise


WEIGHTS = "model.safetensors"

LEFT_OUT = "left_out.txt"
"""Names the files that couldn't be read."""


def _good(recorder: Recorder | Unrecorded, plan: Plan) -> str:
    """What there is to go on from, in words."""
    found = []
    if written := Checkpoints(recorder.folder, plan.spec.checkpoint).paths():
        goes_on = run_dirs.command(f"resume {recorder.id} key=value", recorder.folder.parent.parent)
        found.append(f"the last good checkpoint is {relative(written[-1])} ({goes_on})")
    if best := plan.run.best.epoch:
        weights = relative(recorder.folder / WEIGHTS)
        found.append(f"the best weights are {weights} (epoch {best})")
    return ", ".join(found) or "no weights are kept yet, as no epoch had been evaluated"


class _Training:
    def __init__(self, recorder: Recorder | Unrecorded, plan: Plan, console: Console) -> None:
        self.recorder, self.plan, self.run, self.console = recorder, plan, plan.run, console
        self.checkpoints = Checkpoints(recorder.folder, plan.spec.checkpoint)
        expected = Expected.of(plan.spec, plan.run.model, plan.run.steps_per_epoch)
        plan.run.ranks.joined(plan.run)
        self.audit = Audit(plan.spec, plan.run, expected)
        self.verdicts: list[Verdict] = []
        self.history: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.left_out = 0.0
        """Files of those that are named in LEFT_OUT."""

    def follow(self, saved: state.State | None, watch: Callable[[Point], None] | None) -> Outcome:
        with self.audit, Stopping() as stopping:
            if saved is not None:
                self._go_on(saved)
            if self.run.best.epoch:  # its file may be another run's, or of an epoch to come
                self._save_weights()
            self.checkpoints.step = self.run.at.step
            with Follow(self.run, self.console) as follow:
                for point in _obeying(stopping, train(self.run)):
                    for key, value in point.metrics.items():
                        self.history[key].append((point.step, value))
                    self._keep(point)
                    follow.show(point)
                    asked = point.step == self.run.at.step and self._asked(stopping)
                    if (asked or self.checkpoints.due(point, self.run)) and self._is_sound():
                        self._save()
                    if asked and not (point.ends_run or self.run.at.step == self.run.steps):
                        stopping.obey()  # else only the last evaluation is left, if that
                    if watch is not None:
                        watch(point)
            if not self.verdicts:  # it was stopped after its last step
                self.verdicts = list(self.audit.verdicts(ended=True))
        return Outcome(self.plan, self.history, self.verdicts, stopping.asked)

    def _asked(self, stopping: Stopping) -> bool:
        """Whether the run is to stop here: all its processes do if one was asked."""
        if asked := self.run.ranks.largest(stopping.asked or 0):
            stopping.asked = asked
        return asked > 0

    def _go_on(self, saved: state.State) -> None:
        """Puts the run where it stood."""
        state.restore(self.run, saved["run"])
        self.audit.load_state_dict(saved["audit"])
        for key, count in saved["recorded"].items():
            self.history[key] = sorted(self.recorder.known.get(key, {}).items())[:count]

    def _keep(self, point: Point) -> None:
        self.recorder.metrics(point.step, point.metrics)
        if point.improved:
            self._save_weights()
        if point.metrics.get("data/skipped", 0) > self.left_out:
            self.left_out = point.metrics["data/skipped"]
            parts = (self.run.data.train, self.run.data.val)
            lines = sorted(f"{reason}\n" for part in parts for reason in unread(part).values())
            self.recorder.text(LEFT_OUT, "".join(lines))
        if found := self.audit.look(point):
            self.verdicts = found
            self.recorder.metrics(point.step, {f"audit/{v.group}": float(v.held) for v in found})
            if not all(verdict.held for verdict in found):
                raise BrokenPromise(found)

    def _is_sound(self) -> bool:
        """Whether all weights are finite; else what follows stops the run, and the last checkpoint
        is the last good one."""
        return self.run.ranks.first_of(unsound(self.run.model)) is None

    def _save_weights(self) -> None:
        self.recorder.file(WEIGHTS, lambda path: save_weights(self.run.best.weights, path))

    def _save(self) -> None:
        content = {
            "run": state.capture(self.run),
            "audit": state.plain(self.audit.state_dict(), "audit"),
            "recorded": {key: len(points) for key, points in self.history.items()},
        }
        self.recorder.sync()  # what it goes on from must not be ahead of the journal
        if self.run.ranks.first:
            self.checkpoints.save(content)
        self.checkpoints.step = self.run.at.step


def _obeying(stopping: Stopping, points: Iterator[Point]) -> Iterator[Point]:
    """What fails after Ctrl-C, such as workers that got it, too, counts as stopped by it."""
    try:
        yield from points
    except Exception:
        stopping.obey()
        raise
