"""The state of a run between two steps: captured as plain data, and restored.

Entries are keyed by name, never by position: the optimizer's state by the names of parameters, and
its settings by the names of groups, so no state is restored to another layer. A resumed run is
bit-identical only with every entry.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recipe.errors import RecipeError
from recipe.nn import rng
from recipe.nn.sharded import gather_full_tensor, shard_like
from recipe.training.run import BestEpoch, Run

RunState = dict[str, Any]

PLAIN_TYPES = (bool, int, float, str)


def capture_state(run: Run) -> RunState:
    """A copy of the run's state on the CPU; each process of the run must call this.

    Raises RecipeError for a component whose state is not plain data.
    """
    at, weights = run.position, run.model.state_dict()
    first, *others = run.collectives.all_gather(rng.get_rng_states())
    state = {
        "position": {
            "epoch": at.epoch,
            "batch": at.batch,
            "step": at.step,
            "bitten": float(at.clipped_steps),
            "left_out": sorted(at.skipped_batches),
            "accuracies": at.accuracies,
            "rates": at.learning_rates,
            "optimizer_steps": run.lr_schedule.optimizer_steps,
            "augmentation": at.augmentation_rng.get_state(),
            "seconds": time.perf_counter() - at.epoch_start_time,
        },
        "streams": first,
        "streams_of_others": others,
        "model": weights,
        "buffers": {name: b for name, b in run.model.named_buffers() if name not in weights},
        "trainable": trainable_names(run),
        "gradients": {n: p.grad for n, p in run.model.named_parameters() if p.grad is not None},
        "optimizer": _optimizer_state_by_name(run),
        "scheduler": run.lr_schedule.scheduler.state_dict(),
        "scaler": run.scaler.state_dict(),
        "parts": {name: part.state_dict() for name, part in run.stateful_components.items()},
        "best": {
            "accuracy": run.best.accuracy,
            "epoch": run.best.epoch,
            "weights": run.best.weights,
        },
        "skipped": run.nonfinite_guard.skipped_batches,
        "unread": {part: run.data.splits[part].unreadable for part in ("train", "val")},
    }
    return {key: to_plain_data(value, key) for key, value in state.items()}


def restore_state(run: Run, state: RunState) -> None:
    """Restores the state to a newly built run of the same spec."""
    restore_position(run, state)
    unfreeze_to_position(run)
    if (
        trainable_names(run) != state["trainable"]
        or _optimizer_state_by_name(run)["members"] != (state["optimizer"]["members"])
    ):
        raise RecipeError(
            "checkpoint: other parameters are trained, or in other groups, than when it was "
            "written; freeze and param_groups must return the same in every call"
        )
    current = run.model.state_dict()
    run.model.load_state_dict({k: shard_like(v, current[k]) for k, v in state["model"].items()})
    with torch.no_grad():
        for name, value in state["buffers"].items():
            run.model.get_buffer(name).copy_(value)
    for name, gradient in state["gradients"].items():
        parameter = run.model.get_parameter(name)
        parameter.grad = shard_like(gradient.to(parameter.device), parameter)
    load_optimizer_state(run, state["optimizer"])
    run.lr_schedule.scheduler.load_state_dict(state["scheduler"])
    run.lr_schedule.optimizer_steps = state["position"]["optimizer_steps"]
    run.optimizer._opt_called = run.position.step > 0  # type: ignore[attr-defined]  # else torch warns
    run.scaler.load_state_dict(state["scaler"])
    for name, part in run.stateful_components.items():
        part.load_state_dict(state["parts"][name])
    run.best = BestEpoch(**state["best"])
    run.nonfinite_guard.skipped_batches = state["skipped"]
    for part, found in state["unread"].items():
        run.data.splits[part].unreadable.update(found)


def restore_position(run: Run, state: RunState) -> None:
    """Restores the position in an epoch, and the random streams."""
    at, position = run.position, state["position"]
    at.epoch, at.batch, at.step = position["epoch"], position["batch"], position["step"]
    at.clipped_steps, at.skipped_batches = position["bitten"], set(position["left_out"])
    at.accuracies = list(position["accuracies"])
    at.learning_rates = position.get("rates", {})  # older checkpoints have none
    at.augmentation_rng.set_state(position["augmentation"])
    at.epoch_start_time = time.perf_counter() - position["seconds"]
    known = get_rng_states(state)
    at.rng_states = known[run.collectives.rank] if run.collectives.rank < len(known) else None
    if at.rng_states is None and at.batch:  # of a process that wasn't part of the earlier run
        with rng.isolate_rng():
            run.collectives.seed_dropout(run.seed, at.epoch, at.step)
            at.rng_states = rng.get_rng_states()


def get_rng_states(state: RunState) -> list[rng.RngStates]:
    """The states of the global streams of each process."""
    return [state["streams"], *state.get("streams_of_others", [])]


def unfreeze_to_position(run: Run) -> None:
    """Unfreezes what was unfrozen before the run's position, in the same order."""
    for epoch in range(run.position.epoch + bool(run.position.batch)):
        run.freeze_schedule.unfreeze(run.optimizer, run.param_groups, epoch)


def load_optimizer_state(run: Run, saved: RunState, *, with_group_settings: bool = True) -> None:
    """Loads the saved state of the optimizer's parameters by name, and the settings of its groups.

    Parameters without saved state get none.
    """
    current = run.optimizer.state_dict()
    names = _parameter_names_by_index(run, current)
    indexed = {index: (name, run.model.get_parameter(name)) for index, name in names.items()}
    for group in current["param_groups"]:
        if with_group_settings:
            group |= saved["groups"].get(group["name"], {})
    current["state"] = {
        index: {
            key: shard_like(value, parameter) if isinstance(value, Tensor) else value
            for key, value in saved["state"][name].items()
        }
        for index, (name, parameter) in indexed.items()
        if name in saved["state"]
    }
    run.optimizer.load_state_dict(current)


def _optimizer_state_by_name(run: Run) -> RunState:
    """The optimizer's state dict with names in place of indices."""
    current = run.optimizer.state_dict()
    names = _parameter_names_by_index(run, current)
    return {
        "class": type(run.optimizer).__name__,
        "groups": {
            group["name"]: {key: value for key, value in group.items() if key != "params"}
            for group in current["param_groups"]
        },
        "members": {
            group["name"]: [names[index] for index in group["params"]]
            for group in current["param_groups"]
        },
        "state": {names[index]: state for index, state in current["state"].items()},
    }


def _parameter_names_by_index(run: Run, current: Mapping[str, Any]) -> dict[int, str]:
    """Parameter names by the indices of the optimizer's state dict."""
    names = {id(p): name for name, p in run.model.named_parameters()}
    return {
        index: names[id(parameter)]
        for held, group in zip(current["param_groups"], run.optimizer.param_groups, strict=True)
        for index, parameter in zip(held["params"], group["params"], strict=True)
    }


def trainable_names(run: Run) -> list[str]:
    return sorted(name for name, p in run.model.named_parameters() if p.requires_grad)


def to_plain_data(value: Any, where: str) -> Any:
    """A copy of tensors, numbers, strings, and lists and mappings of them.

    They can be read without unpickling any code. Raises RecipeError, naming `where`, for any other
    value.
    """
    if isinstance(value, Tensor):
        return gather_full_tensor(value.detach()).to("cpu", copy=True)
    if value is None or type(value) in PLAIN_TYPES:
        return value
    for kind in PLAIN_TYPES:
        if isinstance(value, kind):  # such as numpy's float
            return kind(value)
    if isinstance(value, Mapping):
        return {
            _check_key(key, where): to_plain_data(item, f"{where}.{key}")
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        items = [to_plain_data(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    raise RecipeError(
        f"checkpoint: {where} is a {type(value).__name__}, which can't be saved; keep tensors and "
        "plain values in a state_dict"
    )


def _check_key(key: Any, where: str) -> Any:
    if isinstance(key, str | int | float | bool):
        return key
    raise RecipeError(f"checkpoint: {where} has the key {key!r}, which can't be saved; use strings")
