"""The plan of a run: its spec, every parameter, learning rates, size and estimated time."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torchinfo
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from recipe import output
from recipe.components import contract
from recipe.components.contract import LRCurves
from recipe.components.data import first_samples_batch
from recipe.config.groups import GROUPS, OFF_OPTIONS
from recipe.config.spec import RunSpec
from recipe.errors import first_line
from recipe.formatting import format_duration, pluralize
from recipe.nn import layers
from recipe.nn.model_state import preserve_model_state
from recipe.runner import parameter_table
from recipe.runner.console import Console, make_table
from recipe.training import component_checks
from recipe.training.run import Run

TEXT_WIDTH = 100
"""Columns of recorded text files."""

BAR_CHARACTERS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class ModelSummary:
    """The model, layer by layer."""

    statistics: torchinfo.ModelStatistics
    count_failure: str | None = None
    """Why output sizes and multiply-adds are missing; None if they aren't."""

    @property
    def multiply_adds(self) -> int | None:
        """Multiply-adds of one sample; None if they could not be counted."""
        return None if self.count_failure else self.statistics.total_mult_adds

    def __str__(self) -> str:
        if self.count_failure is None:
            return str(self.statistics)
        return f"{self.statistics}\nMultiply-adds could not be counted: {self.count_failure}"


def summarize_model(run: Run) -> ModelSummary:
    """torchinfo's table for one training sample, without side effects on generators, modes and
    statistics. If that forward pass fails, the table has the parameters only."""

    def run_torchinfo(inputs: Tensor | None) -> torchinfo.ModelStatistics:
        columns = ("output_size", "num_params", "mult_adds", "trainable")
        return torchinfo.summary(
            run.model, input_data=inputs, depth=10, mode="eval", verbose=0, device=run.device,
            col_names=columns if inputs is not None else ("num_params", "trainable"),
        )  # fmt: skip

    with preserve_model_state(run.model):
        inputs, _ = first_samples_batch(run.data.train, 1)
        try:
            return ModelSummary(run_torchinfo(inputs.to(run.device, non_blocking=True)))
        except Exception as error:  # training may work nevertheless
            cause = error.__cause__ or error
            reason = f"{type(cause).__name__} for one sample: {first_line(cause)}"
            return ModelSummary(run_torchinfo(None), reason)


@dataclass(frozen=True)
class Plan:
    spec: RunSpec
    run: Run
    model_summary: ModelSummary
    parameter_rows: list[parameter_table.ParameterRow]
    frozen_cache_description: str | None
    """How the outputs of frozen layers are cached; None if no layer is frozen."""
    schedule_description: str | None
    """The schedule's own description, such as the lengths of its parts."""
    cautions: list[str]


def make_plan(spec: RunSpec, run: Run) -> Plan:
    output.set_current_task("computing a summary of the model")
    planned = contract.PlannedRun(spec, run.components, vars(run))
    return Plan(
        spec,
        run,
        summarize_model(run),
        parameter_table.build_rows(run),
        run.frozen_cache.describe_plan(run),
        component_checks.describe_component(planned, "scheduler"),
        component_checks.find_warnings(planned),
    )


def format_sparkline(values: list[float], width: int) -> str:
    """A line of bars from 0 to the largest value, one character per value or, for more than `width`
    values, per interval (its mean)."""
    top = max(values)
    cuts = [round(index * len(values) / width) for index in range(width + 1)]
    stretches = [values[a:b] for a, b in itertools.pairwise(cuts) if b > a]
    if len(values) <= width:
        stretches = [[value] for value in values for _ in range(width // len(values))]
    heights = [sum(stretch) / len(stretch) / top if top else 0.0 for stretch in stretches]
    return "".join(
        BAR_CHARACTERS[max(1, round(height * (len(BAR_CHARACTERS) - 1)))] for height in heights
    )


def estimate_epoch_seconds(run: Run) -> float:
    """A rough estimate from a few forward and backward passes, which leave the run unchanged."""
    output.set_current_task("measuring the time of a step")
    inputs, targets = first_samples_batch(run.data.train, run.batch_size)
    inputs, targets = inputs.to(run.device, non_blocking=True), targets.to(run.device)
    trained = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    with preserve_model_state(run.model, buffers=True):
        run.model.train()
        with run.autocast():
            once, forward = run.frozen_cache.benchmark_functions(run, inputs)

        def step() -> None:
            with run.autocast():
                loss = run.loss(forward(), targets)
            torch.autograd.grad(loss, trained, allow_unused=True)
            loss.item()

        def first() -> None:
            with run.autocast():
                once()

        took, more = _measure_fastest(step), _measure_fastest(first)
    evaluation = len(run.data.val) / len(run.data.train)
    # a forward pass is a third of a step
    return run.steps_per_epoch * (
        took * (1 + evaluation / 3) + more * (1 + evaluation) / run.epochs
    )


def _measure_fastest(work: Callable[[], None]) -> float:
    took = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return min(took)


def render_plan(plan: Plan, *, seconds: float | None = None) -> RenderableType:
    """The plan for a terminal; with the estimated time if `seconds` per epoch are given."""
    return Group(*_render_sections(plan, seconds))


def format_headline(spec: RunSpec, run: Run) -> str:
    """The run in one line, and the source of its initial weights in another, if there is one."""
    text = (
        f"{spec.label}: seed {spec.seed}, {pluralize(run.epochs, 'epoch')} of "
        f"{pluralize(run.steps_per_epoch, 'step')}, "
        f"{len(run.data.train)} training and {len(run.data.val)} validation samples, "
        f"{len(run.data.classes)} classes, on {run.device}"
    )
    if run.collectives.world_size > 1:
        text += f"\n{_describe_ranks(run)}"
    return f"{text}\nWeights: {run.initial_weights.description}" if run.initial_weights else text


def _describe_ranks(run: Run) -> str:
    text = f"Shared by {run.collectives.world_size} processes"
    norms = [m for m in run.model.modules() if isinstance(m, layers.BATCH_NORM_TYPES)]
    if norms and not any(isinstance(m, nn.SyncBatchNorm) for m in norms):
        text += (
            "; BatchNorm normalises over each one's own share of a batch, so numbers are not those "
            "of one process"
        )
    return text


def _render_sections(plan: Plan, seconds: float | None) -> Iterator[RenderableType]:
    run, spec = plan.run, plan.spec
    yield Text(format_headline(spec, run))
    yield Text()
    yield build_spec_table(spec)
    yield Text()
    yield parameter_table.build_table(plan.parameter_rows)
    yield Text()
    yield build_param_group_table(plan)
    yield Text()
    yield build_learning_rate_table(plan)
    if plan.schedule_description is not None:
        yield Text(plan.schedule_description)
    yield Text()
    yield Text(format_model_size(plan))
    if plan.frozen_cache_description is not None:
        yield Text(f"Frozen: {plan.frozen_cache_description}")
    for caution in plan.cautions:
        yield Text(f"Caution {caution}", style="yellow")
    if seconds is not None:
        total = format_duration(seconds * run.epochs)
        yield Text(f"Time: roughly {total} ({format_duration(seconds)} an epoch)")


def build_spec_table(spec: RunSpec) -> Table:
    """Option and settings of every group; groups that are off are dimmed."""
    shown = make_table("group", "option", "settings", title="Spec")
    for group in GROUPS:
        settings = [
            f"{k}={_truncate(v)}" for k, v in getattr(spec, group).items() if k != "_target_"
        ]
        off = OFF_OPTIONS.get(group) == spec.options[group]
        shown.add_row(group, spec.options[group], " ".join(settings), style="dim" if off else None)
    return shown


def _truncate(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def build_param_group_table(plan: Plan) -> Table:
    """Learning rate, weight decay and number of parameters of every group."""
    right = ("tensors", "numbers", "lr", "weight decay")
    shown = make_table("group", *right, title="Parameter groups", right=right)
    for group in plan.run.optimizer.param_groups:
        held = [row for row in plan.parameter_rows if row.group == group["name"]]
        numbers = sum(row.numbers for row in held)
        lr, decay = plan.run.base_lr[group["name"]], group.get("weight_decay", 0.0)
        shown.add_row(group["name"], str(len(held)), f"{numbers:,}", f"{lr:g}", f"{decay:g}")
    frozen = [row for row in plan.parameter_rows if not row.group]
    if frozen:
        numbers = sum(row.numbers for row in frozen)
        shown.add_row("(frozen)", str(len(frozen)), f"{numbers:,}", "-", "-")
    return shown


def _has_warmup(run: Run) -> bool:
    return any(factor != 1 for factor in run.warmup_factors)


def _compute_learning_rates(run: Run) -> LRCurves:
    """The learning rates over the run; with a warm-up, those of every step."""
    if not _has_warmup(run):
        return run.lr_curves
    per_move = 1 if run.lr_schedule.per == "step" else run.steps_per_epoch
    return {
        name: [values[step // per_move] * factor for step, factor in enumerate(run.warmup_factors)]
        for name, values in run.lr_curves.items()
    }


def build_learning_rate_table(plan: Plan, width: int = 48) -> Table:
    """Each parameter group's learning rate over the run, as a line of bars."""
    per = "step" if _has_warmup(plan.run) else plan.spec.scheduler["per"]
    shown = Table(
        title=f"Learning rate over the run (moves every {per})",
        title_justify="left", box=None, pad_edge=False, show_header=False,
    )  # fmt: skip
    for name, values in _compute_learning_rates(plan.run).items():
        shown.add_row(
            name, f"{values[0]:.3g}", format_sparkline(values, width), f"{values[-1]:.3g}"
        )
    option, monitor = plan.spec.options["scheduler"], plan.spec.scheduler.get("monitor")
    is_constant = all(len(set(values)) == 1 for values in plan.run.lr_curves.values())
    note = ""
    if monitor is not None:
        note = f"falls when {monitor} stops improving"
    elif option != OFF_OPTIONS["scheduler"] and is_constant:
        note = f"scheduler={option} changes nothing in {pluralize(plan.run.epochs, 'epoch')}"
    if note:
        shown.add_row("", "", note, "")
    return shown


def format_model_size(plan: Plan) -> str:
    total = sum(row.numbers for row in plan.parameter_rows)
    trainable = sum(row.numbers for row in plan.parameter_rows if row.trainable)
    if plan.model_summary.multiply_adds is None:
        adds = f"multiply-adds could not be counted ({plan.model_summary.count_failure})"
    else:
        adds = f"{plan.model_summary.multiply_adds / 1e6:,.1f} million multiply-adds a sample"
    return f"Size: {trainable:,} of {total:,} parameters trainable, {adds}"


def render_as_text(shown: RenderableType) -> str:
    """The output of a terminal with TEXT_WIDTH columns and without colours."""
    console = Console(io.StringIO(), width=TEXT_WIDTH)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"
