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


def run_other_rank() -> int:
    """The exit status. What only this process finds to be wrong is told, and word of it left for
    the first; what all find is for the first to tell."""
    try:
        return _train_other_rank()
    except RecipeError as error:
        from recipe.audit.auditor import AuditError
        from recipe.training.nonfinite import NonFiniteError

        if not isinstance(error, (SpecError, NonFiniteError, AuditError)):
            rendezvous.report_failure("; ".join(error.problems))
            for problem in error.problems:
                output.print_error(f"process {World.from_environment().rank}: {problem}")
        raise
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        rendezvous.report_failure(f"{type(error).__name__}: {first}")
        raise


def _train_other_rank() -> int:
    os.environ.update(thread_environment(thread_count("auto")))  # before torch is imported
    spec = rendezvous.receive_spec()
    if isinstance(spec, int):
        return spec
    from recipe.components.data import worker
    from recipe.runner import plan as planning
    from recipe.runner import start
    from recipe.runner.execute import prepare_run
    from recipe.runner.fit import fit
    from recipe.runner.recorder import NullRecorder

    run = prepare_run(spec, Problems())
    plan = planning.make_plan(spec, run)
    with run.collectives.translate_peer_errors():
        saved = start.join_run(plan)
    with worker.translate_worker_errors(spec.data.get("workers", 0)):
        fit(NullRecorder(), plan, Console(quiet=True), checkpoint_state=saved)
    return 0
