"""Parameters and their settings, one row each: the artifact parameters.csv and a table."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields

from rich.table import Table

from recipe.compare.report.csv_tables import format_csv
from recipe.formatting import pluralize
from recipe.runner.console import make_table
from recipe.training.run import Run

FOLD_THRESHOLD = 40
"""A table of more parameters has one line per module."""


@dataclass(frozen=True)
class ParameterRow:
    name: str
    shape: str
    """Such as 16x3x3x3; empty for a scalar."""
    rule: str
    """The pattern that assigned it to its group, or else the group's name."""
    group: str
    lr: float | None
    """Its group's, before any schedule; None if it is in no group and never trained."""
    weight_decay: float | None
    trainable: bool
    """In the first epoch."""
    frozen_epochs: int | None
    """Epochs after which it is trained; None if never."""
    numbers: int


def build_rows(run: Run) -> list[ParameterRow]:
    """Rows in the model's order. A parameter that is never trained is in no group."""
    held = {group["name"]: group for group in run.optimizer.param_groups}
    home = {
        id(p): held[g["name"]] for g in run.param_groups if g["name"] in held for p in g["params"]
    }
    thaws = {
        name: epoch
        for epoch, names in run.freeze_schedule.unfreeze_schedule.items()
        for name in names
    }
    found = []
    for name, parameter in run.model.named_parameters():
        trainable = parameter.requires_grad
        group = home.get(id(parameter), {}) if trainable or name in thaws else {}
        found.append(
            ParameterRow(
                name=name,
                shape="x".join(map(str, parameter.shape)),
                rule=group.get("rule", group.get("name", "")),
                group=group.get("name", ""),
                lr=run.base_lr[group["name"]] if group else None,
                weight_decay=group.get("weight_decay", 0.0) if group else None,
                trainable=trainable,
                frozen_epochs=0 if trainable else thaws.get(name),
                numbers=parameter.numel(),
            )
        )
    return found


def to_csv(rows: list[ParameterRow]) -> str:
    names = [field.name for field in fields(ParameterRow)]
    return format_csv([names, *([getattr(row, name) for name in names] for row in rows)])


def build_table(rows: list[ParameterRow]) -> Table:
    """Each parameter's group, learning rate, and whether it is trainable before and after freezing;
    a long model has one line per module."""
    folded = len(rows) > FOLD_THRESHOLD
    shown = make_table(
        "name", *(() if folded else ("shape",)), "group", "lr", "trainable before", "after",
        title="Parameters", right=["lr"],
    )  # fmt: skip
    for cells, row in fold_by_module(rows) if folded else [([r.name, r.shape], r) for r in rows]:
        lr = "-" if row.lr is None else f"{row.lr:g}"
        shown.add_row(*cells, row.group or "-", lr, "True", _describe_unfreezing(row))
    return shown


def _describe_unfreezing(row: ParameterRow) -> str:
    if row.trainable or row.frozen_epochs is None:
        return str(row.trainable)
    return f"False, True after {pluralize(row.frozen_epochs, 'epoch')}"


def fold_by_module(rows: list[ParameterRow]) -> list[tuple[list[str], ParameterRow]]:
    """Merges neighbouring rows with equal settings in one top-level module: ([module with its
    number of tensors], one of its rows)."""

    def group_key(row: ParameterRow) -> tuple[str, str, float | None, bool, int | None]:
        return row.name.partition(".")[0], row.group, row.lr, row.trainable, row.frozen_epochs

    folded = []
    for (module, *_), alike in itertools.groupby(rows, group_key):
        merged = list(alike)
        numbers = sum(row.numbers for row in merged)
        label = f"{module} ({pluralize(len(merged), 'tensor')}, {numbers:,} numbers)"
        folded.append(([label], merged[0]))
    return folded
