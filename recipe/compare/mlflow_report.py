"""The verdict in MLflow: the report on the sweep's parent run, each variant's mean on its runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recipe.compare.comparison import Comparison
from recipe.compare.report.content import Document, Picture, Section, Table
from recipe.compare.report.markdown import markdown
from recipe.compare.report.markup import code
from recipe.compare.summary import Summary
from recipe.components.tracking import Tracking
from recipe.components.tracking.local import database_path, database_uri
from recipe.config import restrictions
from recipe.errors import RecipeError
from recipe.formatting import counted
from recipe.mlflow_sync import parent_run
from recipe.mlflow_sync.client import connect, reason
from recipe.store import run_dirs, sweep_record
from recipe.store.upload_state import Sent

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

FOLDER = "report"
"""Of the parent run's artifacts."""

LONGEST = 7500
"""Characters of a page in MLflow, which takes 8,000 of a tag."""

MOST_RUNS = 1000
"""Runs that are told their variant's mean; each takes MLflow some milliseconds."""


def tell(
    found: Comparison, made: Document, files: Sequence[Path], outputs: Path, which: str, uri: str
) -> str | None:
    """Why MLflow wasn't told, if so. A sweep that was recorded without MLflow isn't told of.

    `files` are those of the report, `which` says in a name what is special about it, and `uri`
    names the server if it is another machine's: only the reader may say that.
    """
    sweep = found.selection.sweep
    assert sweep is not None
    try:
        tracking = _tracking(found, sweep, outputs, uri)
        if tracking is None:
            return None
        client, experiment = connect(tracking, outputs)
        parent_id = parent_run.parent_run(client, experiment, sweep, str(tracking.uri))
        parent_run.tell(tracking, outputs, sweep)
        for path in files:
            client.log_artifact(parent_id, str(path), f"{FOLDER}{which}")
        jobs = str(sweep_record.read(sweep).get("end", {}).get("note", ""))
        client.set_tag(
            parent_id, "mlflow.note.content", _page(found, made, jobs, f"{FOLDER}{which}")
        )
        return _tell_runs(client, str(tracking.uri), found, run_dirs.folder(outputs))
    except Exception as error:  # whatever MLflow raises, the report itself is written
        return reason(error)


def _tracking(found: Comparison, sweep: Path, outputs: Path, uri: str) -> Tracking | None:
    """Where the sweep is recorded. Raises RecipeError where only the reader may say so."""
    first = found.selection.runs[0]
    sent = Sent.read(run_dirs.folder(outputs) / first.run)
    known = sweep_record.read(sweep).get("uri") or (sent.uri if sent else None)
    if known is None:
        return None
    here = database_uri(outputs / "mlflow.db")
    allowed = known in (here, uri) or restrictions.is_here(str(known))
    if not allowed:
        from recipe.config import compose  # with Hydra, which takes a moment

        if known != restrictions.server(compose.project()):
            raise RecipeError(
                _moved(str(known), sweep)
                or f"the record of this sweep is on another machine, {known!r}; if it may be told, "
                f"say tracking.uri={known}"
            )
    artifacts = (outputs / "mlartifacts").as_uri() if known == here else None
    return Tracking(str(known), first.settings.get("tracking.experiment", "recipe"), artifacts)


def _moved(known: str, sweep: Path) -> str:
    """What to say where the sweep was recorded into a file of this machine, or of any other."""
    path = database_path(known)
    if path is None:
        return ""
    return (
        f"{sweep.parent.parent} was copied or moved since, and the record of this sweep is in "
        f"{path}; if that is to be told, say tracking.uri={known}"
    )


def _page(found: Comparison, made: Document, jobs: str, kept: str) -> str:
    """What MLflow shows as the sweep's description: what was found, the variants, the jobs."""
    told = next(section for section in made.sections if section.title == "What was found")
    variants = next(section for section in made.sections if section.title == "The variants")
    tables = [one for one in variants.content if isinstance(one, Table)]
    # pictures lie among the artifacts, where this page can't show them
    told = Section(told.title, [one for one in told.content if not isinstance(one, Picture)])
    base = " ".join(found.variants.baseline)
    against = f" against {code(base)}" if base else ""
    report = (
        f"By {code(found.unit.metric)}{against}, which {code(f'{kept}/report.html')} "
        "among the artifacts tells whole."
    )
    pages = [
        # the run's name stands above it already
        markdown(Document("", [*sections, Section("The report", [report])])).partition("\n\n")[2]
        for sections in ([told, Section("The variants", tables)], [told], [])
    ]
    page = next((page for page in pages if len(page) <= LONGEST), pages[-1])
    return page + (f"\n{jobs}" if len(page) + len(jobs) < LONGEST else "")


def _tell_runs(client: MlflowClient, uri: str, found: Comparison, recorded: Path) -> str | None:
    """Gives each run the mean of its variant, with the interval."""
    told, sweep = 0, found.selection.sweep
    assert sweep is not None
    for each in found.summaries:
        for run in each.variant.runs.values():
            if told == MOST_RUNS:
                return f"only {MOST_RUNS:,} runs have the mean of their variant"
            sent = Sent.read(recorded / run.run)
            if sent and sent.mlflow_run_id and sent.uri == uri:
                _tell_run(client, sent.mlflow_run_id, each, found.unit.metric, sweep.name)
                told += 1
    missing = sum(len(each.variant.runs) for each in found.summaries) - told
    return f"it doesn't have {counted(missing, 'run')}" if missing else None


def _tell_run(client: MlflowClient, run_id: str, summary: Summary, metric: str, sweep: str) -> None:
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
