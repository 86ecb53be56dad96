"""What came of a run: the result with its uncertainty, and what each trick did."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from recipe.audit.auditor import Verdict
from recipe.components.data import Split, unread
from recipe.config import option_files
from recipe.formatting import counted, listed, percent, printable
from recipe.runner.parameter_table import Row
from recipe.runner.plan import Plan
from recipe.store import run_dirs

if TYPE_CHECKING:
    from recipe.runner.plots import History

ON = {
    "sampler": "every epoch's order",
    "sharpness": "every step's gradient was taken uphill",
    "warmup": "the first steps",
    "evaluation": "every evaluation, and predictions",
    "precision": "every forward pass",
    "augment": "every training batch",
    "average": "the average is what was evaluated and kept",
}
"""What a trick did that has nothing to measure."""


@dataclass(frozen=True)
class Outcome:
    plan: Plan
    history: History
    verdicts: Sequence[Verdict]
    asked: int | None = None
    """The signal that came when nothing but the end was left to do."""

    @property
    def accuracy(self) -> float:
        return self.plan.run.best.accuracy

    def sentence(self) -> str:
        """The best validation accuracy, with the interval that so many samples allow."""
        run = self.plan.run
        count = len(run.data.val) - len(unread(run.data.val))
        low, high = exact_interval(round(self.accuracy * count), count)
        early = run.at.epoch < run.epochs
        of = f"{run.epochs}, stopped after {run.at.epoch}" if early else f"{run.epochs}"
        return (
            f"val/accuracy {percent(self.accuracy)} at epoch {run.best.epoch} of {of} "
            f"(95 % interval {percent(low)} to {percent(high)}, {count} samples)"
        )

    @property
    def no_effect(self) -> list[str]:
        """`group=option` of the tricks that did nothing at all."""
        return [f"{v.group}={v.option}" for v in self.verdicts if v.no_effect]

    def cautions(self) -> Iterator[str]:
        """What the result doesn't say, because a trick did nothing or batches were left out."""
        for v in self.verdicts:
            if v.no_effect:
                yield (
                    f"{v.group}={v.option} had no effect: {v.no_effect}; this run says nothing "
                    "about it"
                )
            if v.caution:
                yield v.caution
        yield from self._unlearned()
        if self.plan.run.nonfinite.skipped:
            yield f"{self._skipped()} left out, because a loss or gradient was not finite"

        if left_out := self.unread():
            samples = len(self.plan.run.data.train) + len(self.plan.run.data.val)
            yield (
                f"{len(left_out)} of {samples} files were left out, as they can't be read: "
                f"{listed(left_out)}"
            )
        data = self.plan.run.data
        if gone := self._without_images(data.train):
            yield (
                f"of {listed(gone)} no training image could be read, so this run can't tell "
                f"{'it' if len(gone) == 1 else 'them'} from the others"
            )
        if gone := self._without_images(data.val):
            yield (
                f"of {listed(gone)} no validation image could be read, so the validation metrics "
                f"don't include {'it' if len(gone) == 1 else 'them'}"
            )

    def _unlearned(self) -> Iterator[str]:
        """Where training came to nothing: a loss that ends above its first value, or an accuracy
        that needs no model."""
        run = self.plan.run
        losses = [v for _, v in sorted(self.history["train/loss"]) if math.isfinite(v)]
        count = max(1, min(run.steps_per_epoch, len(losses) // 2))
        if losses and (last := statistics.fmean(losses[-count:])) > losses[0]:
            yield (
                f"the training loss did not fall: {losses[0]:.4g} at the first step, {last:.4g} on "
                f"average over the last {counted(count, 'step')}; look at optimizer.lr (recipe "
                "find-lr)"
            )
        counts = Counter(run.data.val.targets.tolist())
        counts.subtract(int(run.data.val.targets[sample]) for sample in unread(run.data.val))
        commonest, most = counts.most_common(1)[0]
        share = most / counts.total()
        if self.accuracy <= share:
            yield (
                f"val/accuracy {percent(self.accuracy)} is no better than always guessing the "
                f"commonest class, {run.data.classes[commonest]} ({percent(share)} of the "
                "validation samples)"
            )

    def _without_images(self, split: Split) -> list[str]:
        """The classes of which every sample of the split was left out."""
        there = Counter(split.targets.tolist())
        left_out = Counter(int(split.targets[sample]) for sample in unread(split))
        classes = self.plan.run.data.classes
        return [printable(classes[c]) for c, count in sorted(left_out.items()) if count == there[c]]

    def unread(self) -> list[str]:
        """The files that were left out, and why."""
        data = self.plan.run.data
        return sorted([*unread(data.train).values(), *unread(data.val).values()])

    def _skipped(self) -> str:
        return f"{self.plan.run.nonfinite.skipped} of {self.plan.run.steps} batches were"

    def deeds(self) -> Iterator[tuple[str, str, str]]:
        """(group, option, what it did) for the tricks; those that are off only if they measured."""
        options = self.plan.spec.options
        for group in ("loss", *option_files.OFF):
            done = getattr(self, f"_{group}")() if hasattr(self, f"_{group}") else None
            if done is None and options[group] != option_files.OFF.get(group):
                done = ON[group]
            if done:
                yield group, options[group], done

    def _loss(self) -> str:
        values = [value for _, value in self.history["train/loss"]]
        did = f"{values[0]:.3g} at the first step, {values[-1]:.3g} at the last"
        return f"{did}; {self._skipped()} skipped" if self.plan.run.nonfinite.skipped else did

    def _freeze(self) -> str:
        rows = self.plan.rows
        frozen = [row for row in rows if row.frozen_epochs is None]
        later = [row for row in rows if row.frozen_epochs not in (None, 0)]
        parts = []
        if frozen:
            parts.append(
                f"{len(frozen)} of {len(rows)} tensors frozen throughout "
                f"({_numbers(frozen):,} of {_numbers(rows):,} numbers)"
            )
        for epoch in sorted({row.frozen_epochs for row in later if row.frozen_epochs is not None}):
            thawed = sum(row.frozen_epochs == epoch for row in later)
            parts.append(f"{thawed} unfrozen after {counted(epoch, 'epoch')}")
        run = self.plan.run  # taken up after its last step, nothing was left to do
        if done := run.prefix.said() or run.prefix.foresee(run):
            parts.append(done)
        return "; ".join(parts) or "nothing was frozen"

    def _param_groups(self) -> str | None:
        if self.plan.spec.options["param_groups"] == option_files.OFF["param_groups"]:
            return None
        return ", ".join(f"{name} lr {rates[0]:g}" for name, rates in self.plan.run.rates.items())

    def _scheduler(self) -> str:
        moved = []
        for key, points in self.history.items():
            if key.startswith("lr/"):
                values = [value for _, value in points]
                changes = sum(a != b for a, b in itertools.pairwise(values))
                if changes:
                    times = "once" if changes == 1 else f"{changes} times"
                    ends = f"{values[0]:.3g} to {values[-1]:.3g}"
                    if max(values) > max(values[0], values[-1]):
                        ends += f", at most {max(values):.3g}"
                    moved.append(f"{key} {ends}, changed {times}")
        if len(moved) > 3:
            moved[3:] = [f"and {len(moved) - 3} more groups"]
        return "; ".join(moved) or "the learning rate never changed"

    def _average(self) -> str | None:
        raw = self.history.get("val/raw_accuracy")
        if not raw:
            return None
        kept = dict(self.history["val/accuracy"])
        step, value = raw[-1]
        return (
            f"the average was evaluated and kept: val/accuracy {percent(kept[step])} in the last "
            f"epoch, the weights themselves {percent(value)}"
        )

    def _stop(self) -> str | None:
        run = self.plan.run
        if run.at.epoch >= run.epochs:
            return (
                None
                if self.plan.spec.options["stop"] == option_files.OFF["stop"]
                else "it never did"
            )
        waited = run.at.epoch - run.best.epoch
        return (
            f"after epoch {run.at.epoch} of {run.epochs}, {counted(waited, 'epoch')} after the best"
        )

    def _clip(self) -> str:
        norms = [value for _, value in self.history["clip/grad_norm"]]
        rate = self.history["clip/hit_rate"][-1][1]
        did = f"bit on {percent(rate)} of {len(norms)} steps"
        if self.plan.spec.options["clip"] == option_files.OFF["clip"]:
            did = "only measured"
        norm = f"median {statistics.median(norms):.3g}, largest {max(norms):.3g}"
        return f"{did}; gradient norm before: {norm}"


def audit_table(verdicts: Sequence[Verdict]) -> Table:
    """Which promise was checked, and whether it held."""
    shown = Table(title="Audit", title_justify="left", box=None, pad_edge=False)
    for column in ("trick", "option", "promise", "what was checked"):
        shown.add_column(column)
    for verdict in verdicts:
        state, style = _state(verdict)
        shown.add_row(
            verdict.group, verdict.option, state, "; ".join(verdict.shown) or verdict.said,
            style=style,
        )  # fmt: skip
    return shown


def _state(verdict: Verdict) -> tuple[str, str | None]:
    if not verdict.held:
        return "BROKEN", "red"
    return ("no effect", "yellow") if verdict.no_effect else ("held", None)


def _numbers(rows: list[Row]) -> int:
    return sum(row.numbers for row in rows)


def exact_interval(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """The Clopper-Pearson interval for a share, from 0 to 1.

    Source: Clopper and Pearson 1934, Biometrika 26(4). Covers at least `level`, whatever the
    share is.
    """
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return low, high


def note(outcome: Outcome, command: str, folder: Path) -> str:
    """The run's page in MLflow, as Markdown."""
    spec = outcome.plan.spec
    tries = f"predict run={folder.name} input=<file or folder>"
    lines = [
        f"## {outcome.sentence()}",
        "",
        f"`python -m recipe {command}`".replace(" `", "`"),
        "",
        *(f"**Caution:** {caution}.\n" for caution in outcome.cautions()),
        "| trick | option | what it did |",
        "|---|---|---|",
        *(f"| {group} | {option} | {done} |" for group, option, done in outcome.deeds()),
        "",
        "| audit | option | promise | what was checked |",
        "|---|---|---|---|",
        *(f"| {v.group} | {v.option} | {_state(v)[0]} | {v.said} |" for v in outcome.verdicts),
        "",
        "| group | option |",
        "|---|---|",
        *(f"| {group} | {spec.options[group]} |" for group in option_files.GROUPS),
        "",
        f"Seed {spec.seed}, {spec.epochs} epochs. The whole spec is `spec.yaml`, what each "
        "parameter got `parameters.csv`, the weights of the best epoch `model.safetensors`.",
        "",
        f"Try it on an image: `{run_dirs.command(tries, folder.parent.parent)}`",
    ]
    return "\n".join(lines) + "\n"
