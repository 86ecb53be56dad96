"""`recipe compare`: from its arguments to the report, on the terminal, on disk and in MLflow."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from rich.console import Console

from recipe import output
from recipe.compare import selection, variants
from recipe.compare.comparison import Comparison
from recipe.compare.mlflow_report import tell
from recipe.compare.report import build, document
from recipe.config.key_values import key_values
from recipe.errors import SpecError
from recipe.formatting import listed, relative
from recipe.store import run_dirs, sweep_dirs

METRIC = "val/accuracy"

LONGEST = 120
"""Characters that say in a folder's name what is special about its report."""


def compare(arguments: Sequence[str], console: Console) -> int:
    """The verb: prints the comparison, keeps it under `<outputs>/reports/`, and tells MLflow.

    Raises SpecError for wrong arguments, and where there is nothing to compare.
    """
    known = {"sweep": "", "baseline": "", "metric": METRIC, "output_dir": "", "tracking.uri": ""}
    values = key_values("compare", arguments, known, positional="sweep")
    outputs = run_dirs.outputs(values["output_dir"])
    if not run_dirs.folder(outputs).is_dir():
        raise SpecError(f"output_dir: no run is recorded in {outputs}; record some first")
    chosen = selection.select(outputs, values["sweep"], values["metric"])
    found = Comparison.of(chosen, variants.of(chosen.runs, values["baseline"]), values["metric"])
    if values["baseline"] and not (found.findings or found.has_baseline):
        raise SpecError(_nobody_ran(values["baseline"], found))
    name = chosen.sweep.name if chosen.sweep else selection.ALL
    which = _special(values["metric"], values["baseline"])
    folder = outputs / "reports" / f"{name}{which}"
    output.task("writing the report")
    with run_dirs.making(folder):
        made = build.document(found, folder)
        files = document.write(made, folder, build.TABLES)
    if chosen.sweep and not values["sweep"] and len(sweep_dirs.folders(outputs)) > 1:
        others = run_dirs.command("compare SWEEP", outputs)
        console.print(f"Sweep   {name}, the latest; {others} takes another", soft_wrap=True)
    document.show(made, console)
    console.print(f"\nReport  {relative(folder / 'build.html')}", soft_wrap=True)
    if chosen.sweep:
        output.task("sending the findings to MLflow")
        failure = tell(found, made, files, outputs, which, values["tracking.uri"])
        if failure:
            console.print(f"MLflow wasn't told: {failure}", style="red", soft_wrap=True)
    return 0


def _nobody_ran(baseline: str, found: Comparison) -> str:
    """What to say of a baseline that can be put together and that no run is of."""
    missing = " ".join(found.variants.baseline)
    near = [" ".join(levels) for levels in found.variants.nearest(found.variants.baseline)]
    return f"baseline: {baseline}: no run is of {missing}; the nearest are {listed(near, 4)}"


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
