"""A spec -> the run that is built from it, in every process that shares it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace

import torch

from recipe import output
from recipe.components.data import worker
from recipe.config import schema
from recipe.config.groups import GROUPS
from recipe.config.instantiate import Components
from recipe.config.spec import RunSpec
from recipe.config.world_size import World
from recipe.errors import Problems, SpecError, find_interrupt, is_output_closed
from recipe.runner.device_environment import set_device_environment
from recipe.training import rendezvous
from recipe.training.build import build
from recipe.training.run import Run

GROUPS_THAT_USE_SEED_OR_EPOCHS = {"data", "sampler", "scheduler", "warmup", "freeze"}


def prepare_run(spec: RunSpec, problems: Problems) -> Run:
    """Builds the run; the first of several processes sends the spec to the others.

    Raises SpecError with `problems`, which were found before, and all that are found here.
    """
    output.set_current_task("importing torch")
    components = set_device_environment(spec, problems)
    invalid_groups = set() if "device" in components else {"device"}
    world = World.from_environment()
    if world.size == 1:
        return _build_run(spec, components, problems, invalid_groups)
    if world.rank == 0:
        rendezvous.send_spec(spec)
    rendezvous.init_process_group()
    return rendezvous.build_on_all_ranks(
        lambda: _build_run(spec, components, problems, invalid_groups)
    )


def find_problems(spec: RunSpec, *, is_on_cpu: bool) -> list[str]:
    """What is wrong with a spec, found by making its components.

    Unless `is_on_cpu`, the device is left out, and no GPU is used.
    """
    try:
        if is_on_cpu:
            prepare_run(spec, Problems())
        else:
            _build_run(replace(spec, compile=False), Components(), Problems(), {"device"})
    except (Exception, SystemExit) as error:  # of a user's component; the job itself reports it
        if is_output_closed(error):
            raise
        if signalled := find_interrupt(error):
            raise signalled from None
        return error.problems if isinstance(error, SpecError) else []
    return []


@contextlib.contextmanager
def preserve_environment() -> Iterator[None]:
    """Restores the environment and torch's number of threads after the block."""
    environment, threads = dict(os.environ), torch.get_num_threads()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(threads)


def _build_run(
    spec: RunSpec, components: Components, problems: Problems, invalid_groups: set[str]
) -> Run:
    if found := schema.find_run_setting_problems(vars(spec)):
        problems += found
        if any(line.startswith(("seed", "epochs")) for line in found):
            invalid_groups |= GROUPS_THAT_USE_SEED_OR_EPOCHS
        if any(line.startswith("accumulate") for line in found):
            spec = replace(spec, accumulate=1)  # reported already; the rest is still checked
    components.add(spec, (group for group in GROUPS if group != "device"))
    with worker.translate_worker_errors(spec.data.get("workers", 0)):
        return build(spec, components, problems, invalid_groups)
