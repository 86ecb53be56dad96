"""The summary of a completed run: what is recorded and printed at its end."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from scipy.special import betaincinv

from recipe.components.data import Split
from recipe.config.groups import GROUPS
from recipe.formatting import (
    escape_unprintable,
    format_list,
    format_percent,
    pluralize,
    relative_to_cwd,
)
from recipe.runner import parameter_table, plots, trick_effects
from recipe.runner.console import make_table, print_caution, print_upload_failure
from recipe.runner.fit import TrainingResult
from recipe.runner.plan import Plan
from recipe.runner.recorder import Recorder
from recipe.store import run_dirs


@dataclass
class RunSummary:
    plan: Plan
    result: TrainingResult
    run_dir: Path
    differing_points: int
    """Recorded points that had other values before the run was resumed."""
    mlflow_run_id: str | None = None
    upload_failure: str | None = None
    """What MLflow lacks of the record, and why."""

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
        return [f"{v.group}={v.option}" for v in self.result.verdicts if v.no_effect_reason]

    def iter_cautions(self) -> Iterator[str]:
        """Reasons why the result means less: tricks without effect, batches or files left out."""
        for v in self.result.verdicts:
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
                f"{trick_effects.format_skipped_batches(self.plan.run)} left out, because a loss "
                "or gradient was not finite"
            )
        data = self.plan.run.data
        if left_out := sorted([*data.train.unreadable.values(), *data.val.unreadable.values()]):
            yield (
                f"{len(left_out)} of {len(data.train) + len(data.val)} files were left out, as "
                f"they can't be read: {format_list(left_out)}"
            )
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
        losses = [v for _, v in sorted(self.result.history["train/loss"]) if math.isfinite(v)]
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
        gone = [index for index, count in sorted(left_out.items()) if count == total[index]]
        return [escape_unprintable(classes[index]) for index in gone]

    def record(self, recorder: Recorder, command: str) -> None:
        """Records the figures, and MLflow's description of the run."""
        history = self.result.history
        recorder.write_file("lr.png", lambda path: plots.plot_learning_rates(history, path))
        recorder.write_file("curves.png", lambda path: plots.plot_curves(history, path))
        for name in ("lr.png", "curves.png", "model.safetensors"):
            recorder.log_artifact(name)
        tags = {"mlflow.note.content": self._render_mlflow_note(command)}
        if self.tricks_without_effect:
            tags["recipe.no_effect"] = ", ".join(self.tricks_without_effect)
        recorder.set_tags(tags)

    def _render_mlflow_note(self, command: str) -> str:
        """The description of the run in MLflow, as Markdown."""
        spec, history = self.plan.spec, self.result.history
        lines = [
            f"## {self.format_result()}",
            "",
            f"`python -m recipe {command}`".replace(" `", "`"),
            "",
            *(f"**Caution:** {caution}.\n" for caution in self.iter_cautions()),
            "| trick | option | what it did |",
            "|---|---|---|",
            *(
                f"| {group} | {option} | {effect} |"
                for group, option, effect in trick_effects.iter_trick_effects(self.plan, history)
            ),
            "",
            "| audit | option | promise | what was checked |",
            "|---|---|---|---|",
            *(
                f"| {v.group} | {v.option} | {trick_effects.format_verdict(v)} | {v.description} |"
                for v in self.result.verdicts
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
            f"Try it on an image: `{self._format_predict_command('<file or folder>')}`",
        ]
        return "\n".join(lines) + "\n"

    def _format_predict_command(self, images: str) -> str:
        command = f"predict run={self.run_dir.name} input={images}"
        return run_dirs.format_command(command, self.run_dir.parent.parent)

    def print_report(self, console: Console) -> None:
        """Prints parameters, effects of tricks, the audit, cautions and the result."""
        effects = make_table("trick", "option", "what it did", title="What each trick did")
        for effect in trick_effects.iter_trick_effects(self.plan, self.result.history):
            effects.add_row(*effect)
        for table in (
            parameter_table.build_table(self.plan.parameter_rows),
            effects,
            trick_effects.build_audit_table(self.result.verdicts),
        ):
            console.print()
            console.print(table)
        console.print()
        cautions = list(self.iter_cautions())
        if self.differing_points:
            cautions.append(
                f"{pluralize(self.differing_points, 'point')} recorded before the run was resumed "
                "had other values; the new ones are used"
            )
        for caution in cautions:
            print_caution(console, caution)
        in_mlflow = f", in MLflow as {self.mlflow_run_id}" if self.mlflow_run_id else ""
        lines = [
            f"Result  {self.format_result()}",
            f"Record  {relative_to_cwd(self.run_dir)}{in_mlflow}",
        ]
        if self.mlflow_run_id:
            lines.append(f"Open    {run_dirs.format_command('ui', self.run_dir.parent.parent)}")
        lines.append(f"Try it  {self._format_predict_command('<image or folder>')}")
        for line in lines:
            console.print(line, highlight=False, soft_wrap=True)
        print_upload_failure(console, self.upload_failure)


def clopper_pearson_interval(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """The Clopper-Pearson interval of a proportion, from 0 to 1.

    Source: Clopper and Pearson 1934, Biometrika 26(4). Its coverage is at least
    `level` for any proportion.
    """
    tail = (1 - level) / 2
    low = float(betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return low, high
