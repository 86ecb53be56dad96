"""The summary of a finished run: the result line, cautions, the audit's table, MLflow's note."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from recipe.audit.auditor import AuditResult
from recipe.components.data import Split
from recipe.config.groups import GROUPS
from recipe.formatting import escape_unprintable, format_list, format_percent, pluralize
from recipe.runner.plan import Plan
from recipe.runner.trick_effects import format_skipped_batches, iter_trick_effects
from recipe.store import run_dirs

if TYPE_CHECKING:
    from recipe.runner.plots import MetricHistory


@dataclass(frozen=True)
class RunSummary:
    plan: Plan
    history: MetricHistory
    verdicts: Sequence[AuditResult]
    late_signal: int | None = None
    """The signal that arrived after the last step."""

    @property
    def best_accuracy(self) -> float:
        return self.plan.run.best.accuracy

    def format_result(self) -> str:
        """The result line: the best validation accuracy with its Clopper-Pearson interval."""
        run = self.plan.run
        count = len(run.data.val) - len(run.data.val.unreadable)
        low, high = clopper_pearson_interval(round(self.best_accuracy * count), count)
        early = run.position.epoch < run.epochs
        of = f"{run.epochs}, stopped after {run.position.epoch}" if early else f"{run.epochs}"
        return (
            f"val/accuracy {format_percent(self.best_accuracy)} at epoch {run.best.epoch} of {of} "
            f"(95 % interval {format_percent(low)} to {format_percent(high)}, {count} samples)"
        )

    @property
    def tricks_without_effect(self) -> list[str]:
        """`group=option` of the tricks that had no effect."""
        return [f"{v.group}={v.option}" for v in self.verdicts if v.no_effect_reason]

    def iter_cautions(self) -> Iterator[str]:
        """Reasons why the result means less: tricks without effect, batches or files left out."""
        for v in self.verdicts:
            if v.no_effect_reason:
                yield (
                    f"{v.group}={v.option} had no effect: {v.no_effect_reason}; this run is "
                    "no evidence about it"
                )
            if v.warning:
                yield v.warning
        yield from self._iter_training_cautions()
        if self.plan.run.nonfinite_guard.skipped_batches:
            yield (
                f"{format_skipped_batches(self.plan.run)} left out, because a loss or gradient was "
                "not finite"
            )
        if left_out := self.list_unreadable_files():
            samples = len(self.plan.run.data.train) + len(self.plan.run.data.val)
            yield (
                f"{len(left_out)} of {samples} files were left out, as they can't be read: "
                f"{format_list(left_out)}"
            )
        data = self.plan.run.data
        if gone := self._get_classes_without_images(data.train):
            yield (
                f"of {format_list(gone)} no training image could be read, so this run can't tell "
                f"{'it' if len(gone) == 1 else 'them'} from the others"
            )
        if gone := self._get_classes_without_images(data.val):
            yield (
                f"of {format_list(gone)} no validation image could be read, so the validation "
                f"metrics don't include {'it' if len(gone) == 1 else 'them'}"
            )

    def _iter_training_cautions(self) -> Iterator[str]:
        """Yields a caution if the loss ended above its first value, or if the accuracy is that of
        a constant prediction."""
        run = self.plan.run
        losses = [v for _, v in sorted(self.history["train/loss"]) if math.isfinite(v)]
        count = max(1, min(run.steps_per_epoch, len(losses) // 2))
        if losses and (last := statistics.fmean(losses[-count:])) > losses[0]:
            yield (
                f"the training loss did not fall: {losses[0]:.4g} at the first step, {last:.4g} on "
                f"average over the last {pluralize(count, 'step')}; look at optimizer.lr (recipe "
                "find-lr)"
            )
        counts = Counter(run.data.val.targets.tolist())
        counts.subtract(int(run.data.val.targets[sample]) for sample in run.data.val.unreadable)
        commonest, most = counts.most_common(1)[0]
        share = most / counts.total()
        if self.best_accuracy <= share:
            yield (
                f"val/accuracy {format_percent(self.best_accuracy)} is no better than always "
                f"guessing the commonest class, {run.data.classes[commonest]} "
                f"({format_percent(share)} of the validation samples)"
            )

    def _get_classes_without_images(self, split: Split) -> list[str]:
        """The classes whose samples of the split were all left out."""
        total = Counter(split.targets.tolist())
        left_out = Counter(int(split.targets[sample]) for sample in split.unreadable)
        classes = self.plan.run.data.classes
        return [
            escape_unprintable(classes[c])
            for c, count in sorted(left_out.items())
            if count == total[c]
        ]

    def list_unreadable_files(self) -> list[str]:
        """The files that were left out, each with the reason."""
        data = self.plan.run.data
        return sorted([*data.train.unreadable.values(), *data.val.unreadable.values()])


def build_audit_table(verdicts: Sequence[AuditResult]) -> Table:
    """One row per audited trick: what was checked, and whether it held."""
    shown = Table(title="Audit", title_justify="left", box=None, pad_edge=False)
    for column in ("trick", "option", "promise", "what was checked"):
        shown.add_column(column)
    for verdict in verdicts:
        state, style = _format_state(verdict)
        shown.add_row(
            verdict.group, verdict.option, state,
            "; ".join(verdict.listed_problems) or verdict.description, style=style,
        )  # fmt: skip
    return shown


def _format_state(verdict: AuditResult) -> tuple[str, str | None]:
    if not verdict.has_passed:
        return "BROKEN", "red"
    return ("no effect", "yellow") if verdict.no_effect_reason else ("held", None)


def clopper_pearson_interval(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """The Clopper-Pearson interval of a proportion, from 0 to 1.

    Source: Clopper and Pearson 1934, Biometrika 26(4). Its coverage is at least
    `level` for any proportion.
    """
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return low, high


def render_mlflow_note(outcome: RunSummary, command: str, run_dir: Path) -> str:
    """The description of the run in MLflow, as Markdown."""
    spec = outcome.plan.spec
    tries = f"predict run={run_dir.name} input=<file or folder>"
    lines = [
        f"## {outcome.format_result()}",
        "",
        f"`python -m recipe {command}`".replace(" `", "`"),
        "",
        *(f"**Caution:** {caution}.\n" for caution in outcome.iter_cautions()),
        "| trick | option | what it did |",
        "|---|---|---|",
        *(
            f"| {group} | {option} | {done} |"
            for group, option, done in iter_trick_effects(outcome.plan, outcome.history)
        ),
        "",
        "| audit | option | promise | what was checked |",
        "|---|---|---|---|",
        *(
            f"| {v.group} | {v.option} | {_format_state(v)[0]} | {v.description} |"
            for v in outcome.verdicts
        ),
        "",
        "| group | option |",
        "|---|---|",
        *(f"| {group} | {spec.options[group]} |" for group in GROUPS),
        "",
        f"Seed {spec.seed}, {spec.epochs} epochs. The complete spec is in `spec.yaml`, the "
        "settings of each parameter in `parameters.csv`, the best epoch's weights in "
        "`model.safetensors`.",
        "",
        f"Try it on an image: `{run_dirs.format_command(tries, run_dir.parent.parent)}`",
    ]
    return "\n".join(lines) + "\n"
