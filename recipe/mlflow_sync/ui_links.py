"""Addresses in MLflow's user interface, and the table of a sweep's runs.

MLflow stores a table's columns, filter and groups in a tag of the experiment, lists these tags
under "Views", and opens the one whose key is in the address.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

VIEW_TAG_PREFIX = "mlflow.sharedViewState."
"""Prefix of the experiment's tag; the key of the view follows."""

MAX_TAG_LENGTH = 5000
"""MLflow's limit in characters."""

WORKFLOW_QUERY = "workflowType=machine_learning"
"""Selects MLflow's interface for training runs, not the one for language models."""

TABLE_METRICS = (
    "best/val_accuracy", "val/accuracy", "val/accuracy/mean", "val/accuracy/low",
    "val/accuracy/high", "val/loss", "time/epoch_s",
)  # fmt: skip
"""The mean and its interval are those of the run's variant, which `compare` sends."""

CHART_FILTER = "^(train|val)/"
"""Metrics whose curves are shown until the filter is cleared."""

COLUMN_WIDTHS = {"params": 100, "metrics": 150}  # pixels


@dataclass(frozen=True)
class ExperimentLinks:
    """An MLflow server's page of one experiment."""

    base_url: str
    experiment_id: str

    @property
    def runs_url(self) -> str:
        return f"{self.base_url}/#/experiments/{self.experiment_id}/runs?{WORKFLOW_QUERY}"

    def run_url(self, run_id: str) -> str:
        return f"{self.base_url}/#/experiments/{self.experiment_id}/runs/{run_id}?{WORKFLOW_QUERY}"

    def search_url(self, search: str) -> str:
        """The table of the runs that match MLflow's search expression."""
        return f"{self.runs_url}&searchFilter={quote(search, safe='')}"

    def view_url(self, key: str, *, curves: bool = False) -> str:
        """The table of a view, or its metrics over the steps."""
        return f"{self.runs_url}&viewStateShareKey={key}{'&compareRunsMode=CHART' * curves}"


def format_sweep_filter(sweep_id: str, parent: str) -> str:
    """MLflow's search expression for the runs of a sweep, without their parent."""
    return f"tags.`recipe.sweep` = '{sweep_id}' AND attributes.run_id != '{parent}'"


def format_ids_filter(ids: Sequence[str]) -> str:
    """MLflow's search expression for runs by id."""
    return f"attributes.run_id IN ({', '.join(map(repr, ids))})"


def build_view_tag(name: str, search: str, swept: Sequence[str]) -> str | None:
    """Returns the tag of a view: columns for the swept parameters, the seed and the results; runs
    that differ only in the seed are grouped under their mean.

    Returns None if it is too long for MLflow.
    """
    tricks = [key for key in swept if key != "seed"]
    columns = [
        *(("params", key) for key in [*tricks, "seed"]),
        *(("metrics", m) for m in TABLE_METRICS),
    ]
    ids = [f"{kind}.`{key}`" for kind, key in columns]
    state: dict[str, object] = {
        "searchFilter": search,
        # sorted by time, the table would hide the runs under their parent
        "orderByKey": "tags.`mlflow.runName`",
        "orderByAsc": True,
        "selectedColumns": ids,
        "columnOrder": ids,
        "chartsSearchFilter": CHART_FILTER,
        "columnWidths": {f"{kind}.`{key}`": COLUMN_WIDTHS[kind] for kind, key in columns},
    }
    if tricks and len(tricks) < len(swept):
        keys = [{"mode": "param", "groupByData": key} for key in tricks]
        state["groupBy"] = {"aggregateFunction": "average", "groupByKeys": keys}
    now = int(time.time() * 1000)
    content = {"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
    value = json.dumps(content)
    return value if len(value) <= MAX_TAG_LENGTH else None
