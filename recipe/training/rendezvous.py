"""From the first process to the others: what to run, or that nothing is to be.

The spec is composed once, by the first process; the others take it as it is, with what its user
trusts, and read no option file. It goes through the store at which torchrun has them meet, so
they stand still until then. What is wrong is told once, and all end alike.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from recipe import __version__
from recipe.config.spec import RunSpec
from recipe.config.world_size import World
from recipe.errors import SpecError

if TYPE_CHECKING:
    from recipe.training.run import Run

PROCESS_TIMEOUT = timedelta(minutes=30)
"""How long one process waits for another before it gives up."""

_command_count = [0]
"""Command lines that this process is done with."""


@functools.cache
def rendezvous_store() -> Store:
    """Where the processes meet. What those said that torchrun has started before
    these is still there, so each start has a part of its own."""
    common = next(iter(rendezvous("env://", timeout=PROCESS_TIMEOUT)))[0]
    return PrefixStore(f"recipe/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", common)


def _key(name: str) -> str:
    """Of what is said about the command line that is under way."""
    return f"{_command_count[0]}/{name}"


def finish_command() -> None:
    """This process is done with a command line; the next one is another matter."""
    _command_count[0] += 1


def send_spec(spec: RunSpec) -> None:
    """To the others, which are waiting for it."""
    rendezvous_store().set(_key("handed"), json.dumps({"spec": dataclasses.asdict(spec)}))


def send_exit_status(status: int) -> None:
    """Ends the others, where they are still waiting, with this exit status; after all have heard
    of it, as torchrun kills what is left as soon as one has ended."""
    if not rendezvous_store().check([_key("handed")]):
        rendezvous_store().set(_key("handed"), json.dumps({"exit": status}))
        _wait_for_all()


def receive_spec() -> RunSpec | int:
    """What the first process hands over: a spec, or the exit status to end with."""
    content: dict[str, Any] = json.loads(rendezvous_store().get(_key("handed")))
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
    """The process group, over gloo and, where torch has GPUs, nccl for what lies on them."""
    if distributed.is_initialized():
        return
    gpus = torch.cuda.is_available() and distributed.is_nccl_available()
    world = World.from_environment()
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo",
        store=rendezvous_store(), rank=world.rank, world_size=world.size, timeout=PROCESS_TIMEOUT,
    )  # fmt: skip


def build_on_all_ranks(build: Callable[[], Run]) -> Run:
    """A run that every process has built. Raises SpecError in all of them, with what is wrong in
    any, or with what differs between them."""
    problems: list[str] = []
    about: dict[str, str] = {}
    run: Run | None = None
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


def _rank_versions(run: Run) -> dict[str, str]:
    """What must be the same everywhere: the data, and what computes."""
    return {"data": run.data.digest, "recipe": __version__, "torch": torch.__version__}


def report_failure(why: str) -> None:
    """For the first process, why this one ends."""
    world = World.from_environment()
    rendezvous_store().set(
        _key("failed"), f"process {world.rank}, on {socket.gethostname()}, failed: {why}"
    )


def failure_reason() -> str | None:
    """What a process that failed has left word of."""
    key = _key("failed")
    return rendezvous_store().get(key).decode() if rendezvous_store().check([key]) else None
