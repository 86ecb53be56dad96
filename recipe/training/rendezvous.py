"""Sends the spec from rank 0 to the other processes, through the store of torchrun.

Rank 0 composes the spec; the others wait for it and read no option file. Problems are printed once,
and all processes exit with the same status.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from recipe import __version__
from recipe.components.data import Data
from recipe.config.spec import RunSpec
from recipe.config.world_size import World
from recipe.errors import SpecError

PROCESS_TIMEOUT = timedelta(minutes=30)

_command_count = [0]
"""Command lines that this process has finished."""


@functools.cache
def rendezvous_store() -> Store:
    """The store that all processes share. Each restart by torchrun uses a prefix of its own, as
    the entries of earlier processes remain."""
    common = next(iter(rendezvous("env://", timeout=PROCESS_TIMEOUT)))[0]
    return PrefixStore(f"recipe/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", common)


def _key(name: str) -> str:
    """Scoped to the current command line."""
    return f"{_command_count[0]}/{name}"


def finish_command() -> None:
    _command_count[0] += 1


def send_spec(spec: RunSpec) -> None:
    rendezvous_store().set(_key("spec"), json.dumps({"spec": dataclasses.asdict(spec)}))


def send_exit_status(status: int) -> None:
    """Makes processes that still wait for a spec exit with this status; returns when all have
    received it, as torchrun kills the others as soon as one process exits."""
    if not rendezvous_store().check([_key("spec")]):
        rendezvous_store().set(_key("spec"), json.dumps({"exit": status}))
        _wait_for_all()


def receive_spec() -> RunSpec | int:
    """The spec of rank 0, or the status to exit with."""
    content: dict[str, Any] = json.loads(rendezvous_store().get(_key("spec")))
    if "exit" in content:
        _wait_for_all()
        return int(content["exit"])
    spec = content["spec"]
    return RunSpec(**{**spec, "trust": tuple(spec["trust"])})


def _wait_for_all() -> None:
    world = World.from_environment()
    rendezvous_store().set(_key(f"ends/{world.rank}"), "")
    rendezvous_store().wait(
        [_key(f"ends/{rank}") for rank in range(world.size)], timedelta(seconds=30)
    )


def init_process_group() -> None:
    """Over gloo, and nccl for GPU tensors where torch has GPUs."""
    if distributed.is_initialized():
        return
    gpus = torch.cuda.is_available() and distributed.is_nccl_available()
    world = World.from_environment()
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo",
        store=rendezvous_store(), rank=world.rank, world_size=world.size, timeout=PROCESS_TIMEOUT,
    )  # fmt: skip


class BuiltRun(Protocol):
    """What all processes must have alike."""

    data: Data


RunT = TypeVar("RunT", bound=BuiltRun)


def build_on_all_ranks(build: Callable[[], RunT]) -> RunT:
    """The run, built in every process. Raises SpecError in all of them if one finds a problem, or
    if their data or versions differ."""
    problems: list[str] = []
    about: dict[str, str] = {}
    run: RunT | None = None
    try:
        run = build()
        about = _rank_versions(run)
    except SpecError as error:
        problems = error.problems
    everyones: list[Any] = [None] * World.from_environment().size
    distributed.all_gather_object(everyones, (problems, about, socket.gethostname()))
    found, expected = list(everyones[0][0]), everyones[0][1]
    for rank, (theirs, facts, host) in enumerate(everyones):
        where = f"process {rank}, on {host}"
        found += [f"{line} ({where})" for line in theirs if line not in found]
        found += [
            f"{what}: {where}, has {facts[what][:12]} and the first process {value[:12]}; give "
            "every machine the same"
            for what, value in expected.items()
            if facts and facts[what] != value
        ]
    if found or run is None:
        raise SpecError(found)
    return run


def _rank_versions(run: BuiltRun) -> dict[str, str]:
    return {"data": run.data.digest, "recipe": __version__, "torch": torch.__version__}


def report_failure(why: str) -> None:
    """Stores why this process fails, for rank 0 to report."""
    world = World.from_environment()
    rendezvous_store().set(
        _key("failed"), f"process {world.rank}, on {socket.gethostname()}, failed: {why}"
    )


def failure_reason() -> str | None:
    """The reason that a failed process has reported, if any."""
    key = _key("failed")
    return rendezvous_store().get(key).decode() if rendezvous_store().check([key]) else None
