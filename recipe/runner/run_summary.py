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

from recipe.audit.auditor import AuditResult
from recipe.components.data import Split
from recipe.config import option_files
from recipe.formatting import escape_unprintable, format_list, format_percent, pluralize
from recipe.runner.parameter_table import ParameterRow
from recipe.runner.plan import Plan
from recipe.store import run_dirs

if TYPE_CHECKING:
    from recipe.runner.plots import MetricHistory

DEFAULT_DESCRIPTIONS = {
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
class RunSummary:
    plan: Plan
    history: MetricHistory
    verdicts: Sequence[AuditResult]
    late_signal: int | None = None
    """The signal that came when nothing but the end was left to do."""

    @property
    def best_accuracy(self) -> float:
        return self.plan.run.best.accuracy

    def format_result(self) -> str:
        """The best validation accuracy, with the interval that so many samples allow."""
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
        """`group=option` of the tricks that did nothing at all."""
        return [f"{v.group}={v.option}" for v in self.verdicts if v.no_effect_reason]

    def iter_cautions(self) -> Iterator[str]:
        """What the result doesn't say, because a trick did nothing or batches were left out."""
        for v in self.verdicts:
            if v.no_effect_reason:
                yield (
                    f"{v.group}={v.option} had no effect: {v.no_effect_reason}; this run says nothing "
                    "about it"
                )
            if v.warning:
                yield v.warning
        yield from self._iter_training_cautions()
        if self.plan.run.nonfinite_guard.skipped_batches:
            yield f"{self._format_skipped_batches()} left out, because a loss or gradient was not finite"

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
                f"of {format_list(gone)} no validation image could be read, so the validation metrics "
                f"don't include {'it' if len(gone) == 1 else 'them'}"
            )

    def _iter_training_cautions(self) -> Iterator[str]:
        """Where training came to nothing: a loss that ends above its first value, or an accuracy
        that needs no model."""
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
                f"val/accuracy {format_percent(self.best_accuracy)} is no better than always guessing the "
                f"commonest class, {run.data.classes[commonest]} ({format_percent(share)} of the "
                "validation samples)"
            )

    def _get_classes_without_images(self, split: Split) -> list[str]:
        """The classes of which every sample of the split was left out."""
        there = Counter(split.targets.tolist())
        left_out = Counter(int(split.targets[sample]) for sample in split.unreadable)
        classes = self.plan.run.data.classes
        return [
            escape_unprintable(classes[c])
            for c, count in sorted(left_out.items())
            if count == there[c]
        ]

    def list_unreadable_files(self) -> list[str]:
        """The files that were left out, and why."""
        data = self.plan.run.data
        return sorted([*data.train.unreadable.values(), *data.val.unreadable.values()])

    def _format_skipped_batches(self) -> str:
        return f"{self.plan.run.nonfinite_guard.skipped_batches} of {self.plan.run.total_steps} batches were"

    def iter_trick_effects(self) -> Iterator[tuple[str, str, str]]:
        """(group, option, what it did) for the tricks; those that are off only if they measured."""
        options = self.plan.spec.options
        for group in ("loss", *option_files.OFF_OPTIONS):
            done = getattr(self, f"_{group}")() if hasattr(self, f"_{group}") else None
            if done is None and options[group] != option_files.OFF_OPTIONS.get(group):
                done = DEFAULT_DESCRIPTIONS[group]
            if done:
                yield group, options[group], done

    def _loss(self) -> str:
        values = [value for _, value in self.history["train/loss"]]
        did = f"{values[0]:.3g} at the first step, {values[-1]:.3g} at the last"
        return (
            f"{did}; {self._format_skipped_batches()} skipped"
            if self.plan.run.nonfinite_guard.skipped_batches
            else did
        )

    def _freeze(self) -> str:
        rows = self.plan.parameter_rows
        frozen = [row for row in rows if row.frozen_epochs is None]
        later = [row for row in rows if row.frozen_epochs not in (None, 0)]
        parts = []
        if frozen:
            parts.append(
                f"{len(frozen)} of {len(rows)} tensors frozen throughout "
                f"({_count_parameters(frozen):,} of {_count_parameters(rows):,} numbers)"
            )
        for epoch in sorted({row.frozen_epochs for row in later if row.frozen_epochs is not None}):
            thawed = sum(row.frozen_epochs == epoch for row in later)
            parts.append(f"{thawed} unfrozen after {pluralize(epoch, 'epoch')}")
        run = self.plan.run  # taken up after its last step, nothing was left to do
        if done := run.frozen_cache.describe() or run.frozen_cache.describe_plan(run):
            parts.append(done)
        return "; ".join(parts) or "nothing was frozen"

    def _param_groups(self) -> str | None:
        if self.plan.spec.options["param_groups"] == option_files.OFF_OPTIONS["param_groups"]:
            return None
        return ", ".join(
            f"{name} lr {rates[0]:g}" for name, rates in self.plan.run.lr_curves.items()
        )

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
            f"the average was evaluated and kept: val/accuracy {format_percent(kept[step])} in the last "
            f"epoch, the weights themselves {format_percent(value)}"
        )

    def _stop(self) -> str | None:
        run = self.plan.run
        if run.position.epoch >= run.epochs:
            return (
                None
                if self.plan.spec.options["stop"] == option_files.OFF_OPTIONS["stop"]
                else "it never did"
            )
        waited = run.position.epoch - run.best.epoch
        return f"after epoch {run.position.epoch} of {run.epochs}, {pluralize(waited, 'epoch')} after the best"

    def _clip(self) -> str:
        norms = [value for _, value in self.history["clip/grad_norm"]]
        rate = self.history["clip/hit_rate"][-1][1]
        did = f"bit on {format_percent(rate)} of {len(norms)} steps"
        if self.plan.spec.options["clip"] == option_files.OFF_OPTIONS["clip"]:
            did = "only measured"
        norm = f"median {statistics.median(norms):.3g}, largest {max(norms):.3g}"
        return f"{did}; gradient norm before: {norm}"


def build_audit_table(verdicts: Sequence[AuditResult]) -> Table:
    """Which promise was checked, and whether it held."""
    shown = Table(title="Audit", title_justify="left", box=None, pad_edge=False)
    for column in ("trick", "option", "promise", "what was checked"):
        shown.add_column(column)
    for verdict in verdicts:
        state, style = _format_state(verdict)
        shown.add_row(
            verdict.group, verdict.option, state, "; ".join(verdict.listed_problems) or verdict.description,
            style=style,
        )  # fmt: skip
    return shown


def _format_state(verdict: AuditResult) -> tuple[str, str | None]:
    if not verdict.has_passed:
        return "BROKEN", "red"
    return ("no effect", "yellow") if verdict.no_effect_reason else ("held", None)


def _count_parameters(rows: list[ParameterRow]) -> int:
    return sum(row.numbers for row in rows)


def clopper_pearson_interval(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """The Clopper-Pearson interval for a share, from 0 to 1.

    Source: Clopper and Pearson 1934, Biometrika 26(4). Covers at least `level`, whatever the
    share is.
    """
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return low, high


def render_mlflow_note(outcome: RunSummary, command: str, run_dir: Path) -> str:
    """The run's page in MLflow, as Markdown."""
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
            for group, option, done in outcome.iter_trick_effects()
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
        *(f"| {group} | {spec.options[group]} |" for group in option_files.GROUPS),
        "",
        f"Seed {spec.seed}, {spec.epochs} epochs. The whole spec is `spec.yaml`, what each "
        "parameter got `parameters.csv`, the weights of the best epoch `model.safetensors`.",
        "",
        f"Try it on an image: `{run_dirs.format_command(tries, run_dir.parent.parent)}`",
    ]
    return "\n".join(lines) + "\n"
