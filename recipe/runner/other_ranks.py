"""A process that shares a run with others and records nothing.

It takes the spec from the first process, trains with it, and prints only what it alone finds to be
wrong.
"""

from __future__ import annotations

from recipe import output
from recipe.audit.auditor import AuditError
from recipe.components.data import worker
from recipe.config.world_size import World
from recipe.errors import Problems, RecipeError, SpecError
from recipe.runner import plan as planning
from recipe.runner import start
from recipe.runner.console import Console
from recipe.runner.fit import fit
from recipe.runner.prepare import prepare_run
from recipe.runner.recorder import NullRecorder
from recipe.training import rendezvous
from recipe.training.nonfinite import NonFiniteError


def run_other_rank() -> int:
    """Returns the exit status. Reports to the first process what only this one finds to be wrong;
    what all of them find, the first one prints."""
    try:
        return _train_other_rank()
    except RecipeError as error:
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
    spec = rendezvous.receive_spec()
    if isinstance(spec, int):
        return spec
    run = prepare_run(spec, Problems())
    plan = planning.make_plan(spec, run)
    with run.collectives.translate_peer_errors():
        saved = start.join_run(plan)
    with worker.translate_worker_errors(spec.data.get("workers", 0)):
        fit(NullRecorder(), plan, Console(quiet=True), checkpoint_state=saved)
    return 0
