"""What each trick did in a run, in one line each: its effect, and whether the audit passed."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.table import Table

from recipe.audit.auditor import AuditResult
from recipe.config.groups import OFF_OPTIONS
from recipe.formatting import format_percent, pluralize
from recipe.runner.console import make_table
from recipe.runner.parameter_table import ParameterRow
from recipe.runner.plan import Plan
from recipe.training.run import Run

MetricHistory = Mapping[str, Sequence[tuple[int, float]]]
"""(step, value) of every metric, in order."""


def iter_trick_effects(plan: Plan, history: MetricHistory) -> Iterator[tuple[str, str, str]]:
    """Yields (group, option, effect) for the tricks of a run; for those that are off only if they
    measured something."""
    for group in ("loss", *OFF_OPTIONS):
        describe = DESCRIBE_BY_GROUP.get(group)
        effect = describe(plan, history) if describe else None
        if effect is None and not _is_off(plan, group):
            effect = DEFAULT_EFFECTS[group]
        if effect:
            yield group, plan.spec.options[group], effect


def format_skipped_batches(run: Run) -> str:
    return f"{run.nonfinite_guard.skipped_batches} of {run.total_steps} batches were"


def _is_off(plan: Plan, group: str) -> bool:
    return plan.spec.options[group] == OFF_OPTIONS.get(group)


def _describe_loss(plan: Plan, history: MetricHistory) -> str:
    values = [value for _, value in history["train/loss"]]
    effect = f"{values[0]:.3g} at the first step, {values[-1]:.3g} at the last"
    if plan.run.nonfinite_guard.skipped_batches:
        effect += f"; {format_skipped_batches(plan.run)} skipped"
    return effect


def _describe_freeze(plan: Plan, history: MetricHistory) -> str:
    rows, run = plan.parameter_rows, plan.run
    frozen = [row for row in rows if row.frozen_epochs is None]
    effects = []
    if frozen:
        effects.append(
            f"{len(frozen)} of {len(rows)} tensors frozen throughout "
            f"({_count_parameters(frozen):,} of {_count_parameters(rows):,} numbers)"
        )
    for epoch in sorted({row.frozen_epochs for row in rows if row.frozen_epochs}):
        unfrozen = sum(row.frozen_epochs == epoch for row in rows)
        effects.append(f"{unfrozen} unfrozen after {pluralize(epoch, 'epoch')}")
    # a run that resumed after its last step has only the plan of its cache
    if cache := run.frozen_cache.describe() or run.frozen_cache.describe_plan(run):
        effects.append(cache)
    return "; ".join(effects) or "nothing was frozen"


def _describe_param_groups(plan: Plan, history: MetricHistory) -> str | None:
    if _is_off(plan, "param_groups"):
        return None
    return ", ".join(f"{name} lr {rates[0]:g}" for name, rates in plan.run.lr_curves.items())


def _describe_scheduler(plan: Plan, history: MetricHistory) -> str:
    effects = []
    for key, points in history.items():
        values = [value for _, value in points]
        if key.startswith("lr/") and (
            changes := sum(a != b for a, b in itertools.pairwise(values))
        ):
            ends = f"{values[0]:.3g} to {values[-1]:.3g}"
            if max(values) > max(values[0], values[-1]):
                ends += f", at most {max(values):.3g}"
            effects.append(
                f"{key} {ends}, changed {'once' if changes == 1 else f'{changes} times'}"
            )
    if len(effects) > 3:
        effects[3:] = [f"and {len(effects) - 3} more groups"]
    return "; ".join(effects) or "the learning rate never changed"


def _describe_average(plan: Plan, history: MetricHistory) -> str | None:
    raw = history.get("val/raw_accuracy")
    if not raw:
        return None
    step, accuracy = raw[-1]
    averaged = dict(history["val/accuracy"])[step]
    return (
        f"the average was evaluated and kept: val/accuracy {format_percent(averaged)} in the last "
        f"epoch, {format_percent(accuracy)} without averaging"
    )


def _describe_stop(plan: Plan, history: MetricHistory) -> str | None:
    run = plan.run
    if run.position.epoch >= run.epochs:
        return None if _is_off(plan, "stop") else "never stopped the run early"
    waited = pluralize(run.position.epoch - run.best.epoch, "epoch")
    return f"after epoch {run.position.epoch} of {run.epochs}, {waited} after the best"


def _describe_clip(plan: Plan, history: MetricHistory) -> str:
    norms = [value for _, value in history["clip/grad_norm"]]
    effect = f"clipped {format_percent(history['clip/hit_rate'][-1][1])} of {len(norms)} steps"
    if _is_off(plan, "clip"):
        effect = "only measured"
    norm = f"median {statistics.median(norms):.3g}, largest {max(norms):.3g}"
    return f"{effect}; gradient norm before: {norm}"


def _count_parameters(rows: list[ParameterRow]) -> int:
    return sum(row.numbers for row in rows)


DESCRIBE_BY_GROUP: dict[str, Callable[[Plan, MetricHistory], str | None]] = {
    "loss": _describe_loss,
    "freeze": _describe_freeze,
    "param_groups": _describe_param_groups,
    "scheduler": _describe_scheduler,
    "average": _describe_average,
    "stop": _describe_stop,
    "clip": _describe_clip,
}

DEFAULT_EFFECTS = {
    "sampler": "every epoch's order",
    "sharpness": "every step used the gradient at perturbed weights",
    "warmup": "the first steps",
    "evaluation": "every evaluation, and predictions",
    "precision": "every forward pass",
    "augment": "every training batch",
    "average": "the average is what was evaluated and kept",
}
"""Effects of tricks that record no metric."""


def build_audit_table(verdicts: Sequence[AuditResult]) -> Table:
    """One row per audited trick: what was checked, and whether it held."""
    shown = make_table("trick", "option", "promise", "what was checked", title="Audit")
    for verdict in verdicts:
        state = format_verdict(verdict)
        shown.add_row(
            verdict.group, verdict.option, state,
            "; ".join(verdict.listed_problems) or verdict.description,
            style={"BROKEN": "red", "no effect": "yellow"}.get(state),
        )  # fmt: skip
    return shown


def format_verdict(verdict: AuditResult) -> str:
    if not verdict.has_passed:
        return "BROKEN"
    return "no effect" if verdict.no_effect_reason else "held"
