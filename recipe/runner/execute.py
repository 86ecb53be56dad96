"""Trains and records a run that was built, and has its record sent to MLflow."""

from __future__ import annotations

import contextlib
import signal
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from recipe import output
from recipe.checkpoint.files import Checkpoints
from recipe.components.data import worker
from recipe.config.spec import RunSpec
from recipe.config.world_size import World
from recipe.errors import is_output_closed
from recipe.mlflow_sync.upload_queue import UploadQueue
from recipe.runner import component_errors
from recipe.runner import plan as planning
from recipe.runner.console import print_caution, print_upload_failure
from recipe.runner.earlier_runs import EarlierRuns
from recipe.runner.fit import fit
from recipe.runner.recorder import Recorder, Status
from recipe.runner.signals import RunPruned
from recipe.runner.start import start_run
from recipe.store import lineage, results, run_dirs
from recipe.training.loop import MetricsEvent
from recipe.training.run import Run

if TYPE_CHECKING:
    from recipe.runner.run_summary import RunSummary


def execute_run(
    spec: RunSpec,
    run: Run,
    console: Console,
    *,
    name: str,
    command: str,
    earlier_runs: EarlierRuns,
    sweep: Path | None = None,
    tags: Mapping[str, str] | None = None,
    on_point: Callable[[MetricsEvent], None] | None = None,
) -> RunSummary:
    """Trains and records the run; resumes `earlier_runs.interrupted_run_dir` if there is one.

    `on_point` is called with each event after it is recorded. Exceptions are raised again after the
    end is recorded: as KILLED for SIGINT and SIGTERM, PRUNED for RunPruned, else FAILED.
    """
    tracking = run.components["tracking"].bind()(spec.output_path)
    with UploadQueue(spec.output_path, tracking) as uploads:
        recorder = _open_recorder(spec, name, earlier_runs, sweep, console)
        uploads.request(recorder.run_dir)

        def close(status: Status, error: str = "") -> str | None:
            """Returns what MLflow lacks. A sweep waits for the uploads of all its runs itself."""
            recorder.close(status, error)
            if sweep is not None:
                return None
            output.set_current_task("sending the record to MLflow")
            return uploads.wait([recorder.run_dir]).get(recorder.run_dir)

        try:
            threading.Thread(target=_import_run_summary, name="imports").start()
            with component_errors.wrap_component_errors(spec, run):
                plan = planning.make_plan(spec, run)
            with run.collectives.translate_peer_errors():
                saved = start_run(
                    recorder, plan, earlier_runs, console, sweep=sweep, tags=tags or {}
                )
            for caution in plan.cautions:
                print_caution(console, caution)
            workers = worker.translate_worker_errors(spec.data.get("workers", 0))
            with component_errors.wrap_component_errors(spec, run), workers:
                if spec.summary:
                    console.print(str(plan.model_summary), highlight=False, soft_wrap=True)
                result = fit(recorder, plan, console, checkpoint_state=saved, on_point=on_point)
                output.set_current_task("writing the end of the record")
                summary = _import_run_summary()(
                    plan, result, recorder.run_dir, recorder.differing_points
                )
                summary.record(recorder, command)
        except RunPruned as reason:
            reason.run_id = recorder.run_id
            recorder.set_tags({"recipe.pruned": str(reason)})
            _remove_temporary_files(spec, recorder)
            print_upload_failure(console, close("PRUNED"))
            raise
        except KeyboardInterrupt:
            print_upload_failure(console, close("KILLED"))
            resume = _format_resume_command(spec, recorder)
            resume = resume.replace("python -m recipe", World.from_environment().launch_command, 1)
            # a sweep is resumed by its own command
            console.print(
                "Stopped." if sweep else f"Stopped. Resume with: {resume}", soft_wrap=True
            )
            raise
        except BaseException as error:
            if not is_output_closed(error):
                print_upload_failure(console, close("FAILED", traceback.format_exc()))
                raise
            print_upload_failure(console, close("KILLED"))
            output.print_error(
                "the reader of the output has exited, so the run stops; "
                f"{_format_resume_command(spec, recorder)} resumes it"
            )
            raise
        _remove_temporary_files(spec, recorder)
        summary.upload_failure = close("FINISHED")
        summary.mlflow_run_id = uploads.get_mlflow_run_id(recorder.run_dir)
    if result.late_signal is not None and not sweep:  # a sweep stops
        number = signal.Signals(result.late_signal)
        key = "Ctrl-C" if number == signal.SIGINT else number.name
        console.print(f"{key} came after the last step, and the run has reached its end")
    with contextlib.suppress(OSError):  # it can be computed from the journals again
        results.write_result(recorder.run_dir)
    return summary


def _open_recorder(
    spec: RunSpec, name: str, earlier_runs: EarlierRuns, sweep: Path | None, console: Console
) -> Recorder:
    fingerprint = earlier_runs.fingerprint
    if earlier_runs.interrupted_run_dir:
        return Recorder.reopen(
            earlier_runs.interrupted_run_dir, sweep_dir=sweep, fingerprint=fingerprint
        )
    if earlier_runs.damage:
        print_caution(console, earlier_runs.damage)
    return Recorder(spec.output_path, name, sweep_dir=sweep, fingerprint=fingerprint)


def _import_run_summary() -> type[RunSummary]:
    # with matplotlib and scipy; in a thread, as torch releases Python's lock while it computes
    output.silence_font_cache_log()
    from recipe.runner.run_summary import RunSummary

    return RunSummary


def _remove_temporary_files(spec: RunSpec, recorder: Recorder) -> None:
    """Removes what a run needs only until it ends."""
    with contextlib.suppress(OSError):
        Checkpoints(recorder.run_dir, spec.checkpoint).remove_unneeded()
        lineage.free_parent_checkpoint(recorder.run_dir)


def _format_resume_command(spec: RunSpec, recorder: Recorder) -> str:
    return run_dirs.format_command(f"resume {recorder.run_id}", spec.output_path)
