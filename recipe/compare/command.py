"""`recipe compare`: from its arguments to the report in the terminal, on disk and in MLflow."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from rich.console import Console

from recipe import output
from recipe.compare import selection, variants
from recipe.compare.comparison import Comparison
from recipe.compare.mlflow_report import upload_report
from recipe.compare.report.build import TABLE_NAMES, build_report
from recipe.compare.report.files import write_document
from recipe.compare.report.terminal import print_document
from recipe.config.verb_arguments import parse_key_values
from recipe.errors import SpecError
from recipe.formatting import format_list, relative_to_cwd
from recipe.store import run_dirs, sweep_dirs

DEFAULT_METRIC = "val/accuracy"

MAX_SUFFIX_LENGTH = 120


def compare(arguments: Sequence[str], console: Console) -> int:
    """Prints the comparison, writes it below `<outputs>/reports/`, and updates MLflow.

    Raises SpecError for wrong arguments, or if there is nothing to compare.
    """
    known = {
        "sweep": "",
        "baseline": "",
        "metric": DEFAULT_METRIC,
        "output_dir": "",
        "tracking.uri": "",
    }
    values = parse_key_values("compare", arguments, known, positional="sweep")
    metric, baseline = values["metric"], values["baseline"]
    outputs = run_dirs.resolve_output_dir(values["output_dir"])
    if not run_dirs.get_runs_dir(outputs).is_dir():
        raise SpecError(f"output_dir: no run is recorded in {outputs}; record some first")
    selected = selection.select_runs(outputs, values["sweep"], metric)
    found = Comparison.from_selection(
        selected, variants.build_variants(selected.results, baseline), metric
    )
    if baseline and not (found.findings or found.has_baseline):
        levels = found.variants.baseline_levels
        nearest = [" ".join(other) for other in found.variants.find_nearest(levels)]
        raise SpecError(
            f"baseline: {baseline}: there are no runs of {' '.join(levels)}; the nearest are "
            f"{format_list(nearest, 4)}"
        )
    sweep_dir = selected.sweep_dir
    name = sweep_dir.name if sweep_dir else run_dirs.ALL_RUNS
    suffix = _make_folder_suffix(metric, baseline)
    folder = outputs / "reports" / f"{name}{suffix}"
    output.set_current_task("writing the report")
    with run_dirs.wrap_output_errors(folder):
        report = build_report(found, folder)
        files = write_document(report.document, folder, TABLE_NAMES)
    if sweep_dir and not values["sweep"] and len(sweep_dirs.list_sweep_dirs(outputs)) > 1:
        command = run_dirs.format_command("compare SWEEP", outputs)
        console.print(f"Sweep   {name}, the latest; {command} compares another", soft_wrap=True)
    print_document(report.document, console)
    console.print(f"\nReport  {relative_to_cwd(folder / 'report.html')}", soft_wrap=True)
    if sweep_dir:
        output.set_current_task("sending the findings to MLflow")
        failure = upload_report(found, report, files, outputs, suffix, values["tracking.uri"])
        if failure:
            console.print(f"MLflow was not updated: {failure}", style="red", soft_wrap=True)
    return 0


def _make_folder_suffix(metric: str, baseline: str) -> str:
    """The part of a report's folder name for a metric and baseline that aren't the default."""
    parts = [metric] if metric != DEFAULT_METRIC else []
    parts += [f"against {baseline}"] if baseline else []
    suffix = "".join("-" + re.sub(r"[^\w.=,]+", "-", part).strip("-.") for part in parts)
    if len(suffix) <= MAX_SUFFIX_LENGTH:
        return suffix
    return f"{suffix[:MAX_SUFFIX_LENGTH]}-{hashlib.sha256(suffix.encode()).hexdigest()[:8]}"
