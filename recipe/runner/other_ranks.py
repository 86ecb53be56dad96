"""The processes of a distributed run besides the first, which record nothing.

They receive the spec from the first process, and print only errors that no other process has.
"""

from __future__ import annotations

from recipe import output
from recipe.audit.auditor import AuditError
from recipe.components.data import worker
from recipe.config.world_size import World
from recipe.errors import Problems, RecipeError, SpecError, describe_exception
from recipe.runner import plan as planning
from recipe.runner import start
from recipe.runner.console import Console
from recipe.runner.fit import fit
from recipe.runner.prepare import prepare_run
from recipe.runner.recorder import NullRecorder
from recipe.training import rendezvous
from recipe.training.nonfinite import NonFiniteError


def run_other_rank() -> int:
    """Returns the exit status. Errors of this process alone are reported to the first one, which
    prints the errors that all processes have."""
    try:
        return _train_other_rank()
    except RecipeError as error:
        if not isinstance(error, (SpecError, NonFiniteError, AuditError)):
            rendezvous.report_failure("; ".join(error.problems))
            for problem in error.problems:
                output.print_error(f"process {World.from_environment().rank}: {problem}")
        raise
    except Exception as error:
        rendezvous.report_failure(describe_exception(error))
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
