"""One job of a sweep, in the process chosen by the launcher."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from recipe import output
from recipe.config.instantiate import bind_component
from recipe.config.spec import RunSpec
from recipe.errors import Problems, RecipeError, SpecError, describe_exception, is_output_closed
from recipe.mlflow_sync.upload_queue import UploadQueue
from recipe.runner import earlier_runs, fingerprint
from recipe.runner.console import Console, print_caution
from recipe.runner.execute import execute_run
from recipe.runner.prepare import prepare_run
from recipe.runner.signals import RunPruned
from recipe.store import run_record, sweep_jobs, sweep_record
from recipe.store.sweep_jobs import JobResult
from recipe.store.upload_state import UploadState
from recipe.training.loop import MetricsEvent
from recipe.training.nonfinite import NonFiniteError


def run_job(config: DictConfig) -> None:
    """One run of the sweep. A failure affects this run only."""
    hydra_config = HydraConfig.get()
    console = Console()
    sweep = Path(hydra_config.sweep.dir).resolve()
    about = sweep_record.read_record(sweep)
    overrides = list(hydra_config.overrides.task)
    number = hydra_config.job.num
    variant = about["variants"][number] if "variants" in about else None
    name = sweep_jobs.format_job_name(about, number, overrides)

    def record(status: str, run: str | None = None, **fields: Any) -> None:
        sweep_jobs.append_result(sweep, JobResult(number, name, status, run, **fields))

    console.print(f"\n[{number + 1}/{about['jobs']}] {name}", style="bold")
    try:
        spec = RunSpec.from_config(config, hydra_config.runtime.choices)
        name = name or spec.label
        run = prepare_run(spec, Problems())
        with earlier_runs.claim_fingerprint(spec, fingerprint.compute(spec, run)) as before:
            if (before is None or before.running_run_dir) and not spec.again:
                problem = "another process is running it"
                if before and before.running_run_dir:
                    problem += f", as {before.running_run_dir.name}"
                console.print(problem, soft_wrap=True)
                return record("RUNNING", problem=problem)
            assert before is not None
            if before.finished_run_dir and not spec.again:
                done = _read_finished_run(before.finished_run_dir, number, name)
                console.print(
                    f"finished before, as {done.run}: {done.accuracy_text}", soft_wrap=True
                )
                _upload_remaining(before.finished_run_dir, spec)
                return sweep_jobs.append_result(sweep, done)
            summary = execute_run(
                spec, run, console,
                name=name, command=" ".join(overrides), sweep=sweep, earlier_runs=before,
                tags={"recipe.variant": variant} if variant else None,
                on_point=_make_pruning_callback(sweep, about, number, spec.epochs, console),
            )  # fmt: skip
    except RunPruned as reason:
        console.print(f"pruned {reason}", soft_wrap=True)
        record("PRUNED", reason.run_id, problem=str(reason))
    except RecipeError as error:
        for problem in error.problems:
            console.print(f"recipe: {problem}", style="red", soft_wrap=True)
        console.print(sweep_jobs.format_job_command(overrides), style="red", soft_wrap=True)
        record(
            "REFUSED" if isinstance(error, SpecError) else "FAILED",
            problem=error.problems[0],
            diverged=isinstance(error, NonFiniteError),
        )
    except KeyboardInterrupt:
        record("KILLED")
        raise
    except (Exception, SystemExit) as error:
        if is_output_closed(error):
            raise
        output.print_text(traceback.format_exc(), sys.stderr)
        console.print(sweep_jobs.format_job_command(overrides), style="red", soft_wrap=True)
        record("FAILED", problem=describe_exception(error))
    else:
        console.print(summary.format_result(), soft_wrap=True)
        for caution in summary.iter_cautions():
            print_caution(console, caution)
        record(
            "FINISHED",
            summary.run_dir.name,
            accuracy=summary.best_accuracy,
            no_effect=summary.tricks_without_effect,
        )
        if summary.result.late_signal is not None:
            signal.raise_signal(
                summary.result.late_signal
            )  # the run is complete, and the sweep stops


def _make_pruning_callback(
    sweep_dir: Path, about: Mapping[str, Any], number: int, epochs: int, console: Console
) -> Callable[[MetricsEvent], None] | None:
    if "search" not in about:
        return None
    from recipe.sweep.search import study  # imports Optuna, which only a search needs

    return study.make_pruning_callback(sweep_dir, about, number, epochs, console)


def _read_finished_run(run_dir: Path, number: int, name: str) -> JobResult:
    """The result of a run that another job or command has finished."""
    record = run_record.RunRecord(run_dir)
    accuracies = record.metrics.get("best/val_accuracy", {})
    idle = record.tags.get("recipe.no_effect", "")
    return JobResult(
        number, name, "FINISHED", run_dir.name,
        accuracies[max(accuracies)] if accuracies else None,
        no_effect=idle.split(", ") if idle else [],
    )  # fmt: skip


def _upload_remaining(run_dir: Path, spec: RunSpec) -> None:
    """Uploads the rest of a run whose process was killed after it had finished."""
    tracking = bind_component(spec, "tracking")(spec.output_path)
    sent = UploadState.read(run_dir)
    if sent and tracking.uri == sent.uri and sent.describe_unsent(run_dir):
        with UploadQueue(spec.output_path, tracking) as uploads:
            uploads.request(run_dir)
