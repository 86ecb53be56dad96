"""`recipe compare`: from its arguments to the report, on the terminal, on disk and in MLflow."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from rich.console import Console

from recipe import output
from recipe.compare import selection, variants
from recipe.compare.comparison import Comparison
from recipe.compare.mlflow_report import upload_report
from recipe.compare.report import build
from recipe.compare.report.files import write_document
from recipe.compare.report.terminal import print_document
from recipe.config.verb_arguments import parse_key_values
from recipe.errors import SpecError
from recipe.formatting import format_list, relative_to_cwd
from recipe.store import run_dirs, sweep_dirs

DEFAULT_METRIC = "val/accuracy"

MAX_SUFFIX_LENGTH = 120
"""Characters that say in a folder's name what is special about its report."""


def compare(arguments: Sequence[str], console: Console) -> int:
    """The verb: prints the comparison, keeps it under `<outputs>/reports/`, and tells MLflow.

    Raises SpecError for wrong arguments, and where there is nothing to compare.
    """
    known = {
        "sweep": "",
        "baseline": "",
        "metric": DEFAULT_METRIC,
        "output_dir": "",
        "tracking.uri": "",
    }
    values = parse_key_values("compare", arguments, known, positional="sweep")
    outputs = run_dirs.resolve_output_dir(values["output_dir"])
    if not run_dirs.get_runs_dir(outputs).is_dir():
        raise SpecError(f"output_dir: no run is recorded in {outputs}; record some first")
    chosen = selection.select_runs(outputs, values["sweep"], values["metric"])
    found = Comparison.from_selection(
        chosen, variants.build_variants(chosen.results, values["baseline"]), values["metric"]
    )
    if values["baseline"] and not (found.findings or found.has_baseline):
        raise SpecError(_format_missing_baseline(values["baseline"], found))
    name = chosen.sweep_dir.name if chosen.sweep_dir else selection.ALL_RUNS
    which = _make_folder_suffix(values["metric"], values["baseline"])
    folder = outputs / "reports" / f"{name}{which}"
    output.set_current_task("writing the report")
    with run_dirs.wrap_output_errors(folder):
        made = build.build_document(found, folder)
        files = write_document(made, folder, build.TABLE_NAMES)
    if chosen.sweep_dir and not values["sweep"] and len(sweep_dirs.list_sweep_dirs(outputs)) > 1:
        others = run_dirs.format_command("compare SWEEP", outputs)
        console.print(f"Sweep   {name}, the latest; {others} takes another", soft_wrap=True)
    print_document(made, console)
    console.print(f"\nReport  {relative_to_cwd(folder / 'report.html')}", soft_wrap=True)
    if chosen.sweep_dir:
        output.set_current_task("sending the findings to MLflow")
        failure = upload_report(found, made, files, outputs, which, values["tracking.uri"])
        if failure:
            console.print(f"MLflow was not updated: {failure}", style="red", soft_wrap=True)
    return 0


def _format_missing_baseline(baseline: str, found: Comparison) -> str:
    """What to say of a baseline that can be put together and that no run is of."""
    missing = " ".join(found.variants.baseline_levels)
    near = [
        " ".join(levels) for levels in found.variants.find_nearest(found.variants.baseline_levels)
    ]
    return f"baseline: {baseline}: no run is of {missing}; the nearest are {format_list(near, 4)}"


def _make_folder_suffix(metric: str, baseline: str) -> str:
    """What a report's name says where it isn't the usual one; a name of any length and of any
    characters becomes one of a file."""
    message = [metric] if metric != DEFAULT_METRIC else []
    message += [f"against {baseline}"] if baseline else []
    slugs = [re.sub(r"[^\w.=,]+", "-", text).strip("-.") for text in message]
    short = "".join(f"-{slug}" for slug in slugs)
    if len(short) <= MAX_SUFFIX_LENGTH:
        return short
    return f"{short[:MAX_SUFFIX_LENGTH]}-{hashlib.sha256(short.encode()).hexdigest()[:8]}"
