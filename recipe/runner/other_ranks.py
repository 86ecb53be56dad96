"""A process that shares a run with others and records nothing: it takes the spec that the first one
hands over, and trains along. It prints only what it alone finds to be wrong."""

from __future__ import annotations

import os

from recipe import output
from recipe.components.device import thread_count, thread_environment
from recipe.config.world_size import World
from recipe.errors import Problems, RecipeError, SpecError
from recipe.runner.console import Console
from recipe.training import rendezvous


def follow() -> int:
    """The exit status. What only this process finds to be wrong is told, and word of it left for
    the first; what all find is for the first to tell."""
    try:
        return _follow()
    except RecipeError as error:
        from recipe.audit.auditor import BrokenPromise
        from recipe.training.nonfinite import NonFinite

        if not isinstance(error, (SpecError, NonFinite, BrokenPromise)):
            rendezvous.leave_word("; ".join(error.problems))
            for problem in error.problems:
                output.error(f"process {World.here().rank}: {problem}")
        raise
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        rendezvous.leave_word(f"{type(error).__name__}: {first}")
        raise


def _follow() -> int:
    os.environ.update(thread_environment(thread_count("auto")))  # before torch is imported
    spec = rendezvous.received()
    if isinstance(spec, int):
        return spec
    from recipe.components.data import worker
    from recipe.runner import plan as planning
    from recipe.runner import start
    from recipe.runner.execute import prepare
    from recipe.runner.fit import train_recorded
    from recipe.runner.null_recorder import Unrecorded

    run = prepare(spec, Problems())
    plan = planning.make(spec, run)
    with run.ranks.together():
        saved = start.follow(plan)
    with worker.reported(spec.data.get("workers", 0)):
        train_recorded(Unrecorded(), plan, Console(quiet=True), saved=saved)
    return 0
