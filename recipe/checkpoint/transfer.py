"""Continues another run's checkpoint under a changed spec.

State is restored where the two specs agree; what changed starts as the new spec says, at the
position that the run has reached. Tensors are matched by name and shape, never by position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from recipe.checkpoint import state
from recipe.checkpoint.files import read_checkpoint
from recipe.checkpoint.state import RunState
from recipe.config.groups import (
    FINGERPRINT_EXCLUDED_FIELDS,
    FINGERPRINT_EXCLUDED_SETTINGS,
    GROUPS,
    RUN_SETTINGS,
)
from recipe.config.spec import RunSpec
from recipe.errors import SpecError
from recipe.formatting import format_list, pluralize
from recipe.store.run_record import RunRecord
from recipe.training.lr_schedule import get_learning_rates
from recipe.training.run import BestEpoch, Run

MAX_LISTED_NAMES = 8


@dataclass
class TransferReport:
    """What was restored, by name, such as `weights convolution1_1.weight` or `scheduler`."""

    transferred: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    first_step_changes: list[str] = field(default_factory=list)
    """Differences between the last step and the next one, with both values."""

    def format_lines(self) -> Iterator[str]:
        """A line for each kind of state."""
        for what, names in (
            ("carried over", self.transferred), ("new", self.new), ("dropped", self.dropped),
        ):  # fmt: skip
            things: dict[str, list[str]] = {}
            for name in names:
                thing, _, rest = name.partition(" ")
                things.setdefault(thing, []).append(rest)
            for thing, rests in things.items():
                full = list(filter(None, rests))
                many = (
                    f" of {pluralize(len(full), 'tensor')}: {format_list(full, MAX_LISTED_NAMES)}"
                )
                yield f"{what}: {thing}{many if full else ''}"
        for line in self.first_step_changes:
            yield f"first step: {line}"


@dataclass(frozen=True)
class SourceCheckpoint:
    """A checkpoint of another run, and what it was trained with."""

    state: RunState
    spec: RunSpec
    has_same_data: bool

    def transfer_to(self, run: Run, new: RunSpec) -> TransferReport:
        return transfer_state(run, self.state, self.spec, new, has_same_data=self.has_same_data)


def load_source_checkpoint(run: Run, spec: RunSpec, checkpoint: Path) -> SourceCheckpoint:
    """Reads a checkpoint in the folder of the run that wrote it."""
    folder = checkpoint.parent.parent
    saved = read_checkpoint(checkpoint)["run"]
    old = RunSpec.from_file(folder / "spec.yaml", spec.trust)
    same_data = RunRecord(folder).data_digest == run.data.digest
    return SourceCheckpoint(saved, old, same_data)


def check_epochs_left(spec: RunSpec, saved: RunState) -> None:
    """Raises SpecError if no epoch is left to train."""
    over = saved["position"]["epoch"]
    if over >= spec.epochs:
        raise SpecError(
            f"epochs is {spec.epochs}, but {over} are already finished; use a larger number"
        )


def find_changed_keys(old: RunSpec, new: RunSpec) -> set[str]:
    """Groups and settings of the run that differ in a way that can change the results."""
    keys = {*GROUPS, *(key.split(".")[0] for key in RUN_SETTINGS)} - {*FINGERPRINT_EXCLUDED_FIELDS}
    return {key for key in keys if _numeric_settings(old, key) != _numeric_settings(new, key)}


def _numeric_settings(spec: RunSpec, key: str) -> Any:
    """A setting of the run, or the settings of a group that can change the results."""
    value = getattr(spec, key)
    if key not in GROUPS:
        return value
    return {
        name: item
        for name, item in value.items()
        if name not in FINGERPRINT_EXCLUDED_SETTINGS.get(key, ())
    }


def transfer_state(
    run: Run, saved: RunState, old: RunSpec, new: RunSpec, *, has_same_data: bool
) -> TransferReport:
    """Moves a run that was built for `new` to the saved position of a run of `old`.

    At least one epoch must be left; see `check_epochs_left`.
    """
    found, differs = TransferReport(), find_changed_keys(old, new)
    run.nonfinite_guard.skipped_batches = saved["skipped"]
    _transfer_position(run, saved, found, in_order=has_same_data and not {"data", "seed"} & differs)
    state.unfreeze_to_position(run)
    weights, same_model = _transfer_weights(run, saved, found)
    _transfer_optimizer(run, saved, found, differs, weights)
    _transfer_schedule(run, saved, found, differs)
    if "precision" not in differs:
        run.scaler.load_state_dict(saved["scaler"])
    for name, part in run.stateful_components.items():
        # an average would still change layers that are frozen now
        fits = name in saved["parts"] and same_model and not differs & {name, "freeze"}
        if part.state_dict():
            (found.transferred if fits else found.new).append(name)
        if fits:
            part.load_state_dict(saved["parts"][name])
    found.dropped += [name for name in saved["parts"] if name not in run.stateful_components]
    if saved["best"]["epoch"]:
        fits = has_same_data and same_model and "data" not in differs
        (found.transferred if fits else found.dropped).append("best")
        if fits:
            run.best = BestEpoch(**saved["best"])
    message = {name.partition(" ")[0] for name in (*found.transferred, *found.new)}
    found.new += [
        f"{group}={new.options[group]}"
        for group in GROUPS
        if group in differs - message and old.options[group] != new.options[group]
    ]
    found.first_step_changes += _describe_first_step(run, saved, old, new, differs)
    return found


def _describe_first_step(
    run: Run, saved: RunState, old: RunSpec, new: RunSpec, differs: set[str]
) -> Iterator[str]:
    """A line for each difference between the last step and the next, with both values."""
    yield from _describe_learning_rates(run, saved, new)
    yield from _describe_settings(old, new, differs)
    position = saved["position"]
    if position["epoch"]:
        steps = (position["step"] - position["batch"]) // position["epoch"]
        if steps != run.steps_per_epoch:
            yield f"steps per epoch {steps} before, {run.steps_per_epoch} now"
    if not differs & {"optimizer", "scheduler", "warmup"}:
        yield from _describe_group_settings(run, saved)
    trained, trains = set(saved["trainable"]), set(state.trainable_names(run))
    if trained != trains:
        yield f"trained tensors {len(trained)} before, {len(trains)} now" + "".join(
            f"; {what}: {format_list(sorted(names))}"
            for what, names in (("frozen now", trained - trains), ("new", trains - trained))
            if names
        )


def _describe_settings(old: RunSpec, new: RunSpec, differs: set[str]) -> Iterator[str]:
    """The options and settings that differ; one line for all settings of a new option."""
    for key in (key for key in RUN_SETTINGS if key in differs):
        yield f"{key} {getattr(old, key)} before, {getattr(new, key)} now"
    before, now = old.to_parameters(), new.to_parameters()
    for group in (group for group in GROUPS if group in differs):
        named = {
            key: now[key]
            for key in now
            if key.startswith(f"{group}.")
            and key.partition(".")[2] not in FINGERPRINT_EXCLUDED_SETTINGS.get(group, ())
            and before.get(key) != now[key]
        }
        if before[group] == now[group]:
            for key, value in named.items():
                yield f"{key} {before.get(key, 'not set')} before, {value} now"
            continue
        settings = ", ".join(f"{key}={value}" for key, value in named.items())
        with_them = f", with {settings}" if settings else ""
        yield f"{group}={before[group]} before, {group}={now[group]} now{with_them}"


def _describe_learning_rates(run: Run, saved: RunState, new: RunSpec) -> Iterator[str]:
    """The learning rates of the last step and the next."""
    groups = saved["optimizer"]["groups"]
    last = saved["position"].get("rates") or {name: group["lr"] for name, group in groups.items()}
    before = format_list([f"{name} {rate:.3g}" for name, rate in last.items()], MAX_LISTED_NAMES)
    jumps = False
    for name, rate in get_learning_rates(run.optimizer).items():
        if name not in last:
            jumps |= rate not in last.values()
            yield f"learning rate of the new group {name} {rate:.3g}; in the last step: {before}"
        elif f"{last[name]:.3g}" == f"{rate:.3g}":
            yield f"learning rate of group {name} {rate:.3g}, as in the last step"
        else:
            jumps = True
            yield f"learning rate of group {name} {last[name]:.3g} in the last step, {rate:.3g} now"
    moves = any(len(set(rates)) > 1 for rates in run.lr_curves.values())
    if jumps and moves and run.lr_schedule.has_run_length:
        share = f"epoch {run.position.epoch} of {run.epochs}"
        yield (
            f"scheduler={new.options['scheduler']} spans the run, and continues as in a run of "
            f"this length after {share}; scheduler=constant with optimizer.lr keeps it constant"
        )


def _describe_group_settings(run: Run, saved: RunState) -> Iterator[str]:
    """Settings of the optimizer's groups, without the learning rates."""
    for group in run.optimizer.param_groups:
        before = saved["optimizer"]["groups"].get(group["name"], {})
        for key in run.optimizer.defaults:
            if key != "lr" and key in before and key in group:
                then, now = before[key], group[key]
                if state.to_plain_data(now, key) != then:
                    yield f"{key} of group {group['name']} {then} before, {now} now"


def _transfer_position(run: Run, saved: RunState, found: TransferReport, *, in_order: bool) -> None:
    at, position = run.position, saved["position"]
    at.epoch = position["epoch"]
    whole = position["batch"] == 0
    if in_order:
        state.restore_position(run, saved)
        at.accuracies = []  # early stopping starts again
    else:
        at.step = at.epoch * run.steps_per_epoch
        share = position["bitten"] / max(1, position["step"])
        at.clipped_steps = share * at.step
        at.rng_states = None
    if in_order or whole:
        found.transferred.append("position")
    else:
        found.dropped.append("position")  # the epoch starts again


@torch.no_grad()
def _transfer_weights(run: Run, saved: RunState, found: TransferReport) -> tuple[set[str], bool]:
    """The names of the transferred tensors, and whether both models have exactly these."""
    current = {**run.model.state_dict(), **dict(run.model.named_buffers())}
    given = {**saved["model"], **saved["buffers"]}
    fitting = {
        name for name in current if name in given and given[name].shape == current[name].shape
    }
    for name, value in current.items():
        (found.transferred if name in fitting else found.new).append(f"weights {name}")
        if name in fitting:
            value.copy_(given[name])
    found.dropped += [f"weights {name}" for name in given if name not in fitting]
    return fitting, fitting == current.keys() == given.keys()


def _transfer_optimizer(
    run: Run, saved: RunState, found: TransferReport, differs: set[str], weights: set[str]
) -> None:
    held = {
        name: parameter
        for name, parameter in run.model.named_parameters()
        if any(parameter is p for group in run.optimizer.param_groups for p in group["params"])
    }
    same = saved["optimizer"]["class"] == type(run.optimizer).__name__
    given = saved["optimizer"]["state"]
    fits = {name for name in given if same and name in held and name in weights}
    found.transferred += [f"optimizer {name}" for name in held if name in fits]
    found.new += [f"optimizer {name}" for name in held if name not in fits and given]
    found.dropped += [f"optimizer {name}" for name in given if name not in fits]
    state.load_optimizer_state(
        run,
        {**saved["optimizer"], "state": {name: given[name] for name in fits}},
        with_group_settings=_is_schedule_unchanged(run, differs),
    )


def _is_schedule_unchanged(run: Run, differs: set[str]) -> bool:
    """Whether the schedule and the settings of the groups are the same; a schedule that spans the
    run also depends on its length."""
    length = (
        {"epochs", "data"}
        if run.lr_schedule.has_run_length or run.lr_schedule.warmup_factors
        else set()
    )
    return not differs & {"optimizer", "param_groups", "scheduler", "warmup", *length}


def _transfer_schedule(run: Run, saved: RunState, found: TransferReport, differs: set[str]) -> None:
    """Restores the schedule, or moves a changed one to the run's position."""
    moves = run.position.epoch
    if run.lr_schedule.per == "step":
        moves = run.position.step - run.nonfinite_guard.skipped_batches
    if _is_schedule_unchanged(run, differs):
        run.lr_schedule.scheduler.load_state_dict(saved["scheduler"])
        run.lr_schedule.optimizer_steps = saved["position"]["optimizer_steps"]
        found.transferred.append("scheduler")
    else:
        run.optimizer._opt_called = True  # type: ignore[attr-defined]  # else torch warns
        run.lr_schedule.remove_warmup()
        run.lr_schedule.optimizer_steps = run.position.step - run.nonfinite_guard.skipped_batches
        if run.lr_schedule.is_metric_driven:
            run.lr_schedule.scheduler.last_epoch = moves  # its patience starts now
        else:
            for _ in range(moves):
                run.lr_schedule.scheduler.step()
        run.lr_schedule.apply_warmup()
        found.new.append("scheduler")
