"""Which trick helped, how sure is that, and what did it cost?"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from rich.console import Console

from recipe import compose, runs
from recipe.arguments import key_values
from recipe.compare import document, selection, variants
from recipe.compare.comparison import Comparison
from recipe.compare.mlflow_verdict import tell
from recipe.errors import SpecError
from recipe.wording import relative

METRIC = "val/accuracy"

LONGEST = 120
"""Characters that say in a folder's name what is special about its report."""


def compare(arguments: Sequence[str], console: Console) -> int:
    """The verb: prints the comparison, keeps it under `<outputs>/reports/`, and tells MLflow.

    Raises SpecError for wrong arguments, and where there is nothing to compare.
    """
    from recipe.compare import report  # matplotlib takes a second, and others only need a part

    known = {"sweep": "", "baseline": "", "metric": METRIC, "output_dir": "", "tracking.uri": ""}
    values = key_values("compare", arguments, known, positional="sweep")
    outputs = compose.outputs(values["output_dir"])
    if not runs.folder(outputs).is_dir():
        raise SpecError(f"output_dir: no run is recorded in {outputs}; record some first")
    chosen = selection.select(outputs, values["sweep"], values["metric"])
    found = Comparison.of(chosen, variants.of(chosen.runs, values["baseline"]), values["metric"])
    name = chosen.sweep.name if chosen.sweep else selection.ALL
    which = _special(values["metric"], values["baseline"])
    folder = outputs / "reports" / f"{name}{which}"
    made = report.document(found, folder)
    files = document.write(made, folder, report.TABLES)
    document.show(made, console)
    console.print(f"\nReport  {relative(folder / 'report.html')}", soft_wrap=True)
    if chosen.sweep:
        failure = tell(found, made, files, outputs, which, values["tracking.uri"])
        if failure:
            console.print(f"MLflow wasn't told: {failure}", style="red", soft_wrap=True)
    return 0


def _special(metric: str, baseline: str) -> str:
    """What a report's name says where it isn't the usual one; a name of any length and of any
    characters becomes one of a file."""
    said = [metric] if metric != METRIC else []
    said += [f"against {baseline}"] if baseline else []
    slugs = [re.sub(r"[^\w.=,]+", "-", text).strip("-.") for text in said]
    short = "".join(f"-{slug}" for slug in slugs)
    if len(short) <= LONGEST:
        return short
    return f"{short[:LONGEST]}-{hashlib.sha256(short.encode()).hexdigest()[:8]}"
