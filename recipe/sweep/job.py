"""One job of a sweep, in the process that the launcher chose."""

from __future__ import annotations

import signal
import sys
import traceback
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from recipe import output
from recipe.config.instantiate import part
from recipe.config.spec import RunSpec
from recipe.errors import Problems, RecipeError, SpecError, is_output_closed, raised
from recipe.mlflow_sync.worker_process import Feed
from recipe.runner import earlier_runs, fingerprint
from recipe.runner.console import Console
from recipe.runner.execute import execute, prepare
from recipe.runner.interruption import Pruned
from recipe.store import run_record, sweep_jobs, sweep_record
from recipe.store.sweep_jobs import Ended
from recipe.store.upload_state import Sent
from recipe.sweep.search import pruning
from recipe.training.nonfinite import NonFinite


def job(config: DictConfig) -> None:
    """One run of the sweep. A failure costs this run only."""
    hydra_config = HydraConfig.get()
    console = Console()
    sweep = Path(hydra_config.sweep.dir).resolve()
    about = sweep_record.read(sweep)
    overrides = list(hydra_config.overrides.task)
    number = hydra_config.job.num
    variant = about["variants"][number] if "variants" in about else None
    name = sweep_jobs.name_of(about, number, overrides)
    console.print(f"\n[{number + 1}/{about['jobs']}] {name}", style="bold")
    try:
        spec = RunSpec.from_config(config, hydra_config.runtime.choices)
        name = name or spec.label
        run = prepare(spec, Problems())
        with earlier_runs.claimed(spec, fingerprint.of(spec, run)) as before:
            if (before is None or before.running) and not spec.again:
                by = f", as {before.running.name}" if before and before.running else ""
                problem = f"another process is running it{by}"
                console.print(problem, soft_wrap=True)
                return sweep_jobs.note(sweep, Ended(number, name, "RUNNING", problem=problem))
            assert before is not None
            if before.finished and not spec.again:
                done = _finished(before.finished, number, name)
                console.print(f"finished before, as {done.run}: {done.percent}", soft_wrap=True)
                _send_rest(before.finished, spec)
                return sweep_jobs.note(sweep, done)
            outcome, recorder = execute(
                spec, run, console,
                name=name, command=" ".join(overrides), sweep=sweep, before=before,
                tags={"recipe.variant": variant} if variant else None,
                watch=pruning.watch(sweep, about, number, spec.epochs, console),
            )  # fmt: skip
    except Pruned as reason:
        console.print(f"pruned {reason}", soft_wrap=True)
        sweep_jobs.note(sweep, Ended(number, name, "PRUNED", reason.run, problem=str(reason)))
    except RecipeError as error:
        for problem in error.problems:
            console.print(f"recipe: {problem}", style="red", soft_wrap=True)
        console.print(sweep_jobs.alone(overrides), style="red", soft_wrap=True)
        status = "REFUSED" if isinstance(error, SpecError) else "FAILED"
        diverged = isinstance(error, NonFinite)
        ended = Ended(number, name, status, problem=error.problems[0], diverged=diverged)
        sweep_jobs.note(sweep, ended)
    except KeyboardInterrupt:
        sweep_jobs.note(sweep, Ended(number, name, "KILLED"))
        raise
    except (Exception, SystemExit) as error:
        if is_output_closed(error):
            raise
        output.write(traceback.format_exc(), sys.stderr)
        console.print(sweep_jobs.alone(overrides), style="red", soft_wrap=True)
        sweep_jobs.note(sweep, Ended(number, name, "FAILED", problem=raised(error)))
    else:
        console.print(outcome.sentence(), soft_wrap=True)
        for caution in outcome.cautions():
            console.print(f"Caution {caution}", style="yellow", soft_wrap=True)
        if recorder.failure:
            console.print(
                f"MLflow did not take all of it ({recorder.failure})", style="red", soft_wrap=True
            )
        ended = Ended(
            number, name, "FINISHED", recorder.id, outcome.accuracy, no_effect=outcome.no_effect
        )
        sweep_jobs.note(sweep, ended)
        if outcome.asked is not None:
            signal.raise_signal(outcome.asked)  # the run is whole, and the sweep stops


def _finished(run: Path, number: int, name: str) -> Ended:
    """The result of a run that is recorded already."""
    record = run_record.read(run)
    accuracies = record.trace.get("best/val_accuracy", {})
    idle = record.tags.get("recipe.no_effect", "")
    return Ended(
        number, name, "FINISHED", run.name,
        accuracies[max(accuracies)] if accuracies else None,
        no_effect=idle.split(", ") if idle else [],
    )  # fmt: skip


def _send_rest(run: Path, spec: RunSpec) -> None:
    """Sends MLflow what it lacks of a run whose process was killed after it had finished."""
    tracking = part(spec, "tracking")(spec.output_path)
    sent = Sent.read(run)
    if sent and tracking.uri == sent.uri and sent.left(run):
        feed = Feed(run, tracking)
        feed.start()
        feed.finish()
