"""What will run: the spec, every parameter, the learning rates, the size and the time."""

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
from recipe.components.contract import Rates
from recipe.components.data import few
from recipe.config import option_files
from recipe.config.spec import RunSpec
from recipe.formatting import counted, duration
from recipe.nn import layers
from recipe.nn.placement import placed
from recipe.nn.preserve import preserved
from recipe.runner import parameter_table
from recipe.runner.console import Console
from recipe.training import rules
from recipe.training.run import Run

WIDTH = 100
"""Columns of everything that is kept as text."""

BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Summary:
    """The model, layer by layer."""

    table: torchinfo.ModelStatistics
    not_counted: str | None = None
    """Why the table has neither output sizes nor multiply-adds; None: it has them."""

    @property
    def multiply_adds(self) -> int | None:
        """For one sample; None: they could not be counted."""
        return None if self.not_counted else self.table.total_mult_adds

    def __str__(self) -> str:
        if self.not_counted is None:
            return str(self.table)
        return f"{self.table}\nMultiply-adds could not be counted: {self.not_counted}"


def summarise(run: Run) -> Summary:
    """torchinfo's table for one training sample; random streams, modes and statistics stay as they
    are. Where that forward pass fails, the table is that of the parameters alone."""

    def made(inputs: Tensor | None) -> torchinfo.ModelStatistics:
        columns = ("output_size", "num_params", "mult_adds", "trainable")
        return torchinfo.summary(
            run.model,
            input_data=inputs,
            col_names=columns if inputs is not None else ("num_params", "trainable"),
            depth=10,
            mode="eval",
            verbose=0,
            device=run.device,
        )

    with preserved(run.model):
        inputs, _ = few(run.data.train, 1)
        try:
            return Summary(made(placed(inputs, run.device)))
        except Exception as error:  # whatever the model or torchinfo raises, training may not
            cause = error.__cause__ or error
            reason = next(iter(str(cause).splitlines()), "")
            return Summary(made(None), f"{type(cause).__name__} for one sample: {reason}")


@dataclass(frozen=True)
class Plan:
    """Everything `describe` shows, as data."""

    spec: RunSpec
    run: Run
    summary: Summary
    rows: list[parameter_table.Row]
    prefix: str | None
    """What will be done with the part that is frozen; None: nothing is."""
    schedule: str | None
    """What the schedule says of itself, such as the lengths of its parts."""
    cautions: list[str]


def make(spec: RunSpec, run: Run) -> Plan:
    output.task("computing a summary of the model")
    planned = contract.Planned(spec, vars(run))
    return Plan(
        spec, run, summarise(run), parameter_table.rows(run), run.prefix.foresee(run),
        rules.description(planned, "scheduler"), rules.cautions(planned),
    )  # fmt: skip


def plot(values: list[float], width: int) -> str:
    """A line of bars from 0 to the largest value, one character per value or, if there are too
    many, per stretch of the run (its mean)."""
    top = max(values)
    cuts = [round(index * len(values) / width) for index in range(width + 1)]
    stretches = [values[a:b] for a, b in itertools.pairwise(cuts) if b > a]
    if len(values) <= width:
        stretches = [[value] for value in values for _ in range(width // len(values))]
    heights = [sum(stretch) / len(stretch) / top if top else 0.0 for stretch in stretches]
    return "".join(BARS[max(1, round(height * (len(BARS) - 1)))] for height in heights)


def seconds_per_epoch(run: Run) -> float:
    """Roughly, from a few steps; the run isn't moved."""
    output.task("measuring the time of a step")
    inputs, targets = few(run.data.train, run.batch_size)
    inputs, targets = placed(inputs, run.device), targets.to(run.device)
    trained = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    with preserved(run.model, buffers=True):
        run.model.train()
        with run.autocast():
            once, forward = run.prefix.ahead(run, inputs)

        def step() -> None:
            with run.autocast():
                loss = run.loss(forward(), targets)
            torch.autograd.grad(loss, trained, allow_unused=True)
            loss.item()

        def first() -> None:
            with run.autocast():
                once()

        took, more = _fastest(step), _fastest(first)
    evaluation = len(run.data.val) / len(run.data.train)
    # a forward pass is a third of a step
    return run.steps_per_epoch * (
        took * (1 + evaluation / 3) + more * (1 + evaluation) / run.epochs
    )


def _fastest(work: Callable[[], None]) -> float:
    took = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return min(took)


def describe(plan: Plan, *, seconds: float | None = None) -> RenderableType:
    """The plan for a terminal; with the time it will take if `seconds` per epoch are given."""
    return Group(*_sections(plan, seconds))


def headline(spec: RunSpec, run: Run) -> str:
    """The run in a line, and where its weights come from in another if not from chance."""
    text = (
        f"{spec.label}: seed {spec.seed}, {counted(run.epochs, 'epoch')} of "
        f"{counted(run.steps_per_epoch, 'step')}, "
        f"{len(run.data.train)} training and {len(run.data.val)} validation samples, "
        f"{len(run.data.classes)} classes, on {run.device}"
    )
    if run.ranks.size > 1:
        text += f"\n{_shared(run)}"
    return f"{text}\nWeights: {run.start.text}" if run.start else text


def _shared(run: Run) -> str:
    text = f"Shared by {run.ranks.size} processes"
    norms = [m for m in run.model.modules() if isinstance(m, layers.BATCH_NORMS)]
    if norms and not any(isinstance(m, nn.SyncBatchNorm) for m in norms):
        text += (
            "; BatchNorm normalises over each one's own share of a batch, so numbers are not those "
            "of one process"
        )
    return text


def _sections(plan: Plan, seconds: float | None) -> Iterator[RenderableType]:
    run, spec = plan.run, plan.spec
    yield Text(headline(spec, run))
    yield Text()
    yield tricks(spec)
    yield Text()
    yield parameter_table.table(plan.rows)
    yield Text()
    yield groups(plan)
    yield Text()
    yield learning_rates_plot(plan)
    if plan.schedule is not None:
        yield Text(plan.schedule)
    yield Text()
    yield Text(counts(plan))
    if plan.prefix is not None:
        yield Text(f"Frozen: {plan.prefix}")
    for caution in plan.cautions:
        yield Text(f"Caution {caution}", style="yellow")
    if seconds is not None:
        yield Text(f"Time: roughly {duration(seconds * run.epochs)} ({duration(seconds)} an epoch)")


def tricks(spec: RunSpec) -> Table:
    """Option and settings of every group; the groups that are off are dim."""
    shown = Table(title="Spec", title_justify="left", box=None, pad_edge=False)
    for column in ("group", "option", "settings"):
        shown.add_column(column)
    for group in option_files.GROUPS:
        settings = [f"{k}={_short(v)}" for k, v in getattr(spec, group).items() if k != "_target_"]
        off = option_files.OFF.get(group) == spec.options[group]
        shown.add_row(group, spec.options[group], " ".join(settings), style="dim" if off else None)
    return shown


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def groups(plan: Plan) -> Table:
    """Learning rate, weight decay and number of parameters of every group."""
    shown = Table(title="Parameter groups", title_justify="left", box=None, pad_edge=False)
    for column in ("group", "tensors", "numbers", "lr", "weight decay"):
        shown.add_column(column, justify="left" if column == "group" else "right")
    for group in plan.run.optimizer.param_groups:
        held = [row for row in plan.rows if row.group == group["name"]]
        numbers = sum(row.numbers for row in held)
        lr, decay = plan.run.base_lr[group["name"]], group.get("weight_decay", 0.0)
        shown.add_row(group["name"], str(len(held)), f"{numbers:,}", f"{lr:g}", f"{decay:g}")
    frozen = [row for row in plan.rows if not row.group]
    if frozen:
        numbers = sum(row.numbers for row in frozen)
        shown.add_row("(frozen)", str(len(frozen)), f"{numbers:,}", "-", "-")
    return shown


def _rises(run: Run) -> bool:
    return any(factor != 1 for factor in run.ramp)


def _course(run: Run) -> Rates:
    """The learning rates over the run; with a warm-up at every step."""
    if not _rises(run):
        return run.rates
    per_move = 1 if run.schedule.per == "step" else run.steps_per_epoch
    return {
        name: [values[step // per_move] * factor for step, factor in enumerate(run.ramp)]
        for name, values in run.rates.items()
    }


def learning_rates_plot(plan: Plan, width: int = 48) -> Table:
    """Each group's learning rate over the run, as a line of bars."""
    per = "step" if _rises(plan.run) else plan.spec.scheduler["per"]
    shown = Table(
        title=f"Learning rate over the run (moves every {per})",
        title_justify="left", box=None, pad_edge=False, show_header=False,
    )  # fmt: skip
    for name, values in _course(plan.run).items():
        shown.add_row(name, f"{values[0]:.3g}", plot(values, width), f"{values[-1]:.3g}")
    option = plan.spec.options["scheduler"]
    waits = "monitor" in plan.spec.scheduler
    if option != option_files.OFF["scheduler"] and not waits and _never_moves(plan.run.rates):
        shown.add_row(
            "", "", f"scheduler={option} changes nothing in {counted(plan.run.epochs, 'epoch')}", ""
        )
    if "monitor" in plan.spec.scheduler:
        shown.add_row("", "", f"falls when {plan.spec.scheduler['monitor']} stops improving", "")
    return shown


def _never_moves(rates: Rates) -> bool:
    return all(len(set(values)) == 1 for values in rates.values())


def counts(plan: Plan) -> str:
    total = sum(row.numbers for row in plan.rows)
    trainable = sum(row.numbers for row in plan.rows if row.trainable)
    if plan.summary.multiply_adds is None:
        adds = f"multiply-adds could not be counted ({plan.summary.not_counted})"
    else:
        adds = f"{plan.summary.multiply_adds / 1e6:,.1f} million multiply-adds a sample"
    return f"Size: {trainable:,} of {total:,} parameters trainable, {adds}"


def as_text(shown: RenderableType) -> str:
    """What a terminal of fixed width and without colours would show."""
    console = Console(io.StringIO(), width=WIDTH)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"
