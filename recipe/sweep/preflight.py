"""Checks and measurements of specs before a sweep starts that need torch.

Imported only in processes that have torch; the process of a sweep names these functions to
`recipe.sweep.launchers.forkserver.TorchHelper`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch

from recipe.checkpoint import state
from recipe.config.spec import RunSpec
from recipe.errors import Problems, RecipeError
from recipe.runner import earlier_runs, fingerprint, prepare
from recipe.sweep.plan import RunSize
from recipe.training.build import build
from recipe.training.run import BestEpoch


def measure_run_size(spec: RunSpec) -> RunSize | None:
    """Builds the run and takes one optimizer step with zero gradients; None if that fails."""
    try:
        run = build(spec)
        weights = {name: tensor.detach() for name, tensor in run.model.state_dict().items()}
        run.best = BestEpoch(1.0, 1, weights)
        for group in run.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        run.optimizer.step()
        run.optimizer.zero_grad()  # as at the end of an epoch
        buffer = io.BytesIO()
        torch.save(state.capture_state(run), buffer)
    except Exception:  # the first run will report what is wrong
        return None
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    return RunSize(size, buffer.getbuffer().nbytes)


def find_build_problems(spec: RunSpec, is_on_cpu: bool) -> list[str]:
    """The problems found by building the components of a run."""
    with prepare.preserve_environment():
        return prepare.find_problems(spec, is_on_cpu=is_on_cpu)


def find_finished_runs(specs_by_seed: Sequence[Sequence[RunSpec]], threads: int) -> list[list[str]]:
    """The names of the finished runs with the fingerprints of the specs, as jobs look them up; an
    empty name where there is none. Specs with one seed share their data, so one of them is built.
    """
    found = []
    for specs in specs_by_seed:
        with prepare.preserve_environment():
            try:
                run = prepare.prepare_run(specs[0], Problems())
                torch.set_num_threads(threads)
                ids = [fingerprint.compute(spec, run) for spec in specs]
            except RecipeError:  # each job will report it
                found.append([""] * len(specs))
                continue
        output_path = specs[0].output_path
        ended = [earlier_runs.read_earlier_runs(output_path, each).finished_run_dir for each in ids]
        found.append([run_dir.name if run_dir else "" for run_dir in ended])
    return found
