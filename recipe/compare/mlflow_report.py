"""The report in MLflow: on the sweep's parent run, and each variant's mean on its runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipe.compare.comparison import Comparison
from recipe.compare.report.build import Report
from recipe.compare.report.document import Document, Image, Section, Table
from recipe.compare.report.markdown import render_markdown
from recipe.compare.sentences import format_code
from recipe.compare.summary import VariantSummary
from recipe.components.tracking import Tracking
from recipe.components.tracking.local import database_path, database_uri
from recipe.config import compose, credentials
from recipe.errors import RecipeError
from recipe.formatting import pluralize
from recipe.mlflow_sync import parent_run
from recipe.mlflow_sync.client import connect, describe_error
from recipe.store import run_dirs, sweep_record
from recipe.store.upload_state import UploadState

ARTIFACT_DIR = "report"

MAX_NOTE_LENGTH = 7500  # MLflow limits tags to 8,000 characters

MAX_UPDATED_RUNS = 1000  # each request takes some milliseconds


def upload_report(
    comparison: Comparison,
    report: Report,
    files: Sequence[Path],
    outputs: Path,
    suffix: str,
    uri: str,
) -> str | None:
    """Uploads a report unless the sweep was recorded without MLflow; returns why it failed, if so.

    `suffix` is that of the report's folder; `uri` allows a server on another machine, which a
    recorded sweep alone can't.
    """
    sweep = comparison.selection.sweep_dir
    assert sweep is not None
    try:
        tracking = _find_tracking(comparison, sweep, outputs, uri)
        if tracking is None:
            return None
        client, experiment = connect(tracking, outputs)
        parent_id = parent_run.get_or_create_parent_run(
            client, experiment, sweep, str(tracking.uri)
        )
        parent_run.send_sweep_end(tracking, outputs, sweep)
        artifact_dir = f"{ARTIFACT_DIR}{suffix}"
        for path in files:
            client.log_artifact(parent_id, str(path), artifact_dir)
        jobs = str(sweep_record.read_record(sweep).get("end", {}).get("note", ""))
        note = _render_note(comparison, report, jobs, artifact_dir)
        client.set_tag(parent_id, "mlflow.note.content", note)
        runs_dir = run_dirs.get_runs_dir(outputs)
        return _log_variant_means(client, str(tracking.uri), comparison, sweep.name, runs_dir)
    except Exception as error:  # MLflow raises many; the report itself is already written
        return describe_error(error)


def _find_tracking(found: Comparison, sweep: Path, outputs: Path, uri: str) -> Tracking | None:
    """Where the sweep is recorded. Raises RecipeError if only the user may allow it."""
    first = found.selection.results[0]
    sent = UploadState.read(run_dirs.get_runs_dir(outputs) / first.run)
    known = sweep_record.read_record(sweep).get("uri") or (sent.uri if sent else None)
    if known is None:
        return None
    local = database_uri(outputs / "mlflow.db")
    is_allowed = known in (local, uri) or credentials.is_local_uri(known)
    if not is_allowed and known != compose.get_tracking_uri(compose.compose_project()):
        if path := database_path(known):
            raise RecipeError(
                f"{outputs} was copied or moved, and the record of this sweep is in {path}; to "
                f"update that one, set tracking.uri={known}"
            )
        raise RecipeError(
            f"the record of this sweep is on another machine, {known!r}; to update it, set "
            f"tracking.uri={known}"
        )
    artifacts = (outputs / "mlartifacts").as_uri() if known == local else None
    return Tracking(known, first.settings.get("tracking.experiment", "recipe"), artifacts)


def _render_note(found: Comparison, report: Report, jobs: str, artifact_dir: str) -> str:
    """The description of the sweep: as much of findings, variants and jobs as MLflow allows."""
    # images are artifacts, which a description can't show
    findings = [block for block in report.findings.blocks if not isinstance(block, Image)]
    tables = [block for block in report.variants.blocks if isinstance(block, Table)]
    base = " ".join(found.variants.baseline_levels)
    against = f" against {format_code(base)}" if base else ""
    page = format_code(f"{artifact_dir}/report.html")
    end = Section(
        "The report",
        [f"By {format_code(found.unit.metric)}{against}; in full in {page}, an artifact."],
    )
    sections = [Section("Findings", findings), Section("Variants", tables)]
    notes = [
        # MLflow shows the run's name above the description
        render_markdown(Document("", [*sections[:number], end])).partition("\n\n")[2]
        for number in (2, 1, 0)
    ]
    note = next((note for note in notes if len(note) <= MAX_NOTE_LENGTH), notes[-1])
    return note + (f"\n{jobs}" if len(note) + len(jobs) < MAX_NOTE_LENGTH else "")


def _log_variant_means(
    client: Any, uri: str, found: Comparison, sweep: str, runs_dir: Path
) -> str | None:
    """Logs the mean of its variant for each run; returns why some are missing, if so."""
    num_updated = num_missing = 0
    for each in found.summaries:
        for run in each.variant.results.values():
            if num_updated == MAX_UPDATED_RUNS:
                return f"only {MAX_UPDATED_RUNS:,} runs have the mean of their variant"
            sent = UploadState.read(runs_dir / run.run)
            if sent and sent.mlflow_run_id and sent.uri == uri:
                _log_variant_mean(client, sent.mlflow_run_id, each, found.unit.metric, sweep)
                num_updated += 1
            else:
                num_missing += 1
    return f"it doesn't have {pluralize(num_missing, 'run')}" if num_missing else None


def _log_variant_mean(
    client: Any, run_id: str, summary: VariantSummary, metric: str, sweep: str
) -> None:
    from mlflow.entities import Metric, RunTag  # takes seconds; `connect` has imported mlflow

    interval, now = summary.interval, int(time.time() * 1000)
    values = {
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "seeds": float(interval.n),
    }
    # all at step 0, so that MLflow shows the latest value, which may be NaN
    metrics = [Metric(f"{metric}/{name}", value, now, 0) for name, value in values.items()]
    client.log_batch(run_id, metrics, tags=[RunTag("recipe.mean_of", sweep)])
