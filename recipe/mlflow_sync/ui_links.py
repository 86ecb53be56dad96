"""Addresses within MLflow's page, and a sweep's runs as its table is to show them.

MLflow keeps what a table shows, its columns, filter and groups, in a tag of the experiment. Its
page lists these by name under "Views", and opens one whose key is in the address.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

VIEW = "mlflow.sharedViewState."
"""Begins the key of the experiment's tag; the view's own key follows."""

LONGEST = 5000
"""Characters that the value of an experiment's tag may have."""

TRAINING = "workflowType=machine_learning"
"""Shows the menu for training runs, not the one for language models."""

METRICS = (
    "best/val_accuracy", "val/accuracy", "val/accuracy/mean", "val/accuracy/low",
    "val/accuracy/high", "val/loss", "time/epoch_s",
)  # fmt: skip
"""Of a run, and once `compare` has told them, of its variant: the mean and its interval."""

CURVES = "^(train|val)/"
"""The metrics whose curves are shown first; the others come when this filter is cleared."""

WIDTH = {"params": 100, "metrics": 150}
"""Of a column, in pixels."""


@dataclass(frozen=True)
class Page:
    """An MLflow server's page of one experiment."""

    address: str
    experiment: str
    """Its id."""

    @property
    def runs(self) -> str:
        """The table of all runs."""
        return f"{self.address}/#/experiments/{self.experiment}/runs?{TRAINING}"

    def run(self, run_id: str) -> str:
        return f"{self.address}/#/experiments/{self.experiment}/runs/{run_id}?{TRAINING}"

    def filtered(self, search: str) -> str:
        """The table of the runs that MLflow's search finds."""
        return f"{self.runs}&searchFilter={quote(search, safe='')}"

    def view(self, key: str, *, curves: bool = False) -> str:
        """The table as the view of that key shows it, or the metrics over the steps."""
        return f"{self.runs}&viewStateShareKey={key}{'&compareRunsMode=CHART' * curves}"


def runs_of(sweep_id: str, parent: str) -> str:
    """MLflow's search for the runs of a sweep, less their parent run."""
    return f"tags.`recipe.sweep` = '{sweep_id}' AND attributes.run_id != '{parent}'"


def runs_among(ids: Sequence[str]) -> str:
    """MLflow's search for the runs of these ids."""
    return f"attributes.run_id IN ({', '.join(map(repr, ids))})"


def view(name: str, search: str, swept: Sequence[str]) -> str | None:
    """What the tag of a view holds: a column for each parameter that was swept, the seed and the
    results; where seeds were swept, the runs that differ in nothing else under their mean.

    None if it is too long for MLflow.
    """
    tricks = [key for key in swept if key != "seed"]
    columns = [*(("params", key) for key in [*tricks, "seed"]), *(("metrics", m) for m in METRICS)]
    ids = [f"{kind}.`{key}`" for kind, key in columns]
    state: dict[str, object] = {
        "searchFilter": search,
        # sorted by time, the table would hide the runs under their parent
        "orderByKey": "tags.`mlflow.runName`",
        "orderByAsc": True,
        "selectedColumns": ids,
        "columnOrder": ids,
        "chartsSearchFilter": CURVES,
        "columnWidths": {f"{kind}.`{key}`": WIDTH[kind] for kind, key in columns},
    }
    if tricks and len(tricks) < len(swept):
        keys = [{"mode": "param", "groupByData": key} for key in tricks]
        state["groupBy"] = {"aggregateFunction": "average", "groupByKeys": keys}
    now = int(time.time() * 1000)
    content = {"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
    value = json.dumps(content)
    return value if len(value) <= LONGEST else None
