"""The verdict in MLflow: the report on the sweep's parent run, each variant's mean on its runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recipe.compare.comparison import Comparison
from recipe.compare.report.document import Document, Image, Section, Table
from recipe.compare.report.markdown import render_markdown
from recipe.compare.sentences import format_code
from recipe.compare.summary import VariantSummary
from recipe.components.tracking import Tracking
from recipe.components.tracking.local import database_path, database_uri
from recipe.config import credentials
from recipe.errors import RecipeError
from recipe.formatting import pluralize
from recipe.mlflow_sync import parent_run
from recipe.mlflow_sync.client import connect, describe_error
from recipe.store import run_dirs, sweep_record
from recipe.store.upload_state import UploadState

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

ARTIFACT_DIR = "report"
"""Of the parent run's artifacts."""

MAX_NOTE_LENGTH = 7500
"""Characters of a page in MLflow, which takes 8,000 of a tag."""

MAX_UPDATED_RUNS = 1000
"""Runs that are told their variant's mean; each takes MLflow some milliseconds."""


def upload_report(
    comparison: Comparison,
    document: Document,
    files: Sequence[Path],
    outputs: Path,
    suffix: str,
    uri: str,
) -> str | None:
    """Why MLflow wasn't told, if so. A sweep that was recorded without MLflow isn't told of.

    `files` are those of the report, `which` says in a name what is special about it, and `uri`
    names the server if it is another machine's: only the reader may say that.
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
        for path in files:
            client.log_artifact(parent_id, str(path), f"{ARTIFACT_DIR}{suffix}")
        jobs = str(sweep_record.read_record(sweep).get("end", {}).get("note", ""))
        client.set_tag(
            parent_id,
            "mlflow.note.content",
            _render_note(comparison, document, jobs, f"{ARTIFACT_DIR}{suffix}"),
        )
        return _log_variant_means(
            client, str(tracking.uri), comparison, run_dirs.get_runs_dir(outputs)
        )
    except Exception as error:  # whatever MLflow raises, the report itself is written
        return describe_error(error)


def _find_tracking(found: Comparison, sweep: Path, outputs: Path, uri: str) -> Tracking | None:
    """Where the sweep is recorded. Raises RecipeError where only the reader may say so."""
    first = found.selection.results[0]
    sent = UploadState.read(run_dirs.get_runs_dir(outputs) / first.run)
    known = sweep_record.read_record(sweep).get("uri") or (sent.uri if sent else None)
    if known is None:
        return None
    here = database_uri(outputs / "mlflow.db")
    allowed = known in (here, uri) or credentials.is_local_uri(str(known))
    if not allowed:
        from recipe.config import compose  # with Hydra, which takes a moment

        if known != compose.get_tracking_uri(compose.compose_project()):
            raise RecipeError(
                _describe_moved_database(str(known), sweep)
                or f"the record of this sweep is on another machine, {known!r}; to update it, "
                f"give tracking.uri={known}"
            )
    artifacts = (outputs / "mlartifacts").as_uri() if known == here else None
    return Tracking(str(known), first.settings.get("tracking.experiment", "recipe"), artifacts)


def _describe_moved_database(known: str, sweep: Path) -> str:
    """What to say where the sweep was recorded into a file of this machine, or of any other."""
    path = database_path(known)
    if path is None:
        return ""
    return (
        f"{sweep.parent.parent} was copied or moved since, and the record of this sweep is in "
        f"{path}; to update that, give tracking.uri={known}"
    )


def _render_note(found: Comparison, made: Document, jobs: str, kept: str) -> str:
    """What MLflow shows as the sweep's description: what was found, the variants, the jobs."""
    message = next(section for section in made.sections if section.title == "What was found")
    variants = next(section for section in made.sections if section.title == "The variants")
    tables = [one for one in variants.blocks if isinstance(one, Table)]
    # pictures lie among the artifacts, where this page can't show them
    message = Section(message.title, [one for one in message.blocks if not isinstance(one, Image)])
    base = " ".join(found.variants.baseline_levels)
    against = f" against {format_code(base)}" if base else ""
    report = (
        f"By {format_code(found.unit.metric)}{against}, which {format_code(f'{kept}/report.html')} "
        "among the artifacts describes in full."
    )
    pages = [
        # the run's name stands above it already
        render_markdown(Document("", [*sections, Section("The report", [report])])).partition(
            "\n\n"
        )[2]
        for sections in ([message, Section("The variants", tables)], [message], [])
    ]
    page = next((page for page in pages if len(page) <= MAX_NOTE_LENGTH), pages[-1])
    return page + (f"\n{jobs}" if len(page) + len(jobs) < MAX_NOTE_LENGTH else "")


def _log_variant_means(
    client: MlflowClient, uri: str, found: Comparison, recorded: Path
) -> str | None:
    """Gives each run the mean of its variant, with the interval."""
    message, sweep = 0, found.selection.sweep_dir
    assert sweep is not None
    for each in found.summaries:
        for run in each.variant.results.values():
            if message == MAX_UPDATED_RUNS:
                return f"only {MAX_UPDATED_RUNS:,} runs have the mean of their variant"
            sent = UploadState.read(recorded / run.run)
            if sent and sent.mlflow_run_id and sent.uri == uri:
                _log_variant_mean(client, sent.mlflow_run_id, each, found.unit.metric, sweep.name)
                message += 1
    missing = sum(len(each.variant.results) for each in found.summaries) - message
    return f"it doesn't have {pluralize(missing, 'run')}" if missing else None


def _log_variant_mean(
    client: MlflowClient, run_id: str, summary: VariantSummary, metric: str, sweep: str
) -> None:
    """`sweep` is that whose runs the mean is of; a run may be one of several."""
    from mlflow.entities import Metric, RunTag

    interval, now = summary.interval, int(time.time() * 1000)
    values = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    # all at one step, so that MLflow shows the latest; an interval that isn't known takes the place
    # of one that was
    metrics = [
        Metric(f"{metric}/{name}", value, now, 0)
        for name, value in {**values, "seeds": float(interval.n)}.items()
    ]
    client.log_batch(run_id, metrics, tags=[RunTag("recipe.mean_of", sweep)])
