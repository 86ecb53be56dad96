"""`recipe diff`: the differences between two recorded runs, and between their results."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from recipe.compare import run_agreement, run_differences
from recipe.compare.run_differences import DifferenceRows
from recipe.config.verb_arguments import parse_key_values
from recipe.errors import SpecError
from recipe.formatting import format_list
from recipe.runner.console import make_table
from recipe.store import run_dirs
from recipe.store.run_record import RunRecord, truncate_value

MAX_PARAMETER_ROWS = 12


def diff(arguments: Sequence[str], console: Console) -> int:
    """Each of the two runs is given by its id, the beginning of it, a name or MLflow's id."""
    if len(arguments) < 2:
        raise SpecError("diff: which two runs? Give their ids: python -m recipe diff <id> <id>")
    outputs = run_dirs.resolve_output_dir(
        parse_key_values("diff", arguments[2:], {"output_dir": ""})["output_dir"]
    )
    one, other = (RunRecord(_find_run_dir(outputs, wanted)) for wanted in arguments[:2])
    console.print(render_diff(one, other))
    return 0


def _find_run_dir(outputs: Path, wanted: str) -> Path:
    """The folder of a run; found by its full id even if run.json is damaged. Raises SpecError."""
    exact = run_dirs.get_runs_dir(outputs) / wanted
    with contextlib.suppress(OSError):
        if wanted not in ("", ".", "..") and Path(wanted).name == wanted and exact.is_dir():
            return exact
    return run_dirs.find(outputs, wanted, "diff")


def render_diff(one: RunRecord, other: RunRecord) -> RenderableType:
    """The complete output."""
    head = _make_table("", "run", "name", "status")
    for letter, record in (("A", one), ("B", other)):
        head.add_row(letter, truncate_value(record.run_dir.name), record.name, record.status)
    parts: list[RenderableType] = [head]
    for letter, record in (("A", one), ("B", other)):
        parts += [
            Text(f"Damaged  {letter}: {name}: {reason}", style="yellow")
            for name, reason in record.problems.items()
        ]
    found = [
        _render_section(
            "What differed in the spec", "setting", run_differences.compare_settings(one, other)
        ),
        _render_parameters(one, other),
        _render_section(
            "What differed around it", "", run_differences.compare_environments(one, other)
        ),
    ]
    sections = [section for section in found if section is not None]
    if not sections:
        complete = not (one.problems or other.problems)
        sections = [Text(f"Nothing differed in what {'ran' if complete else 'can be read'}.")]
    for section in (
        *sections,
        _render_section("What came of it", "", run_differences.compare_results(one, other)),
    ):
        if section is not None:
            parts += [Text(), section]
    return Group(*parts, *_render_agreement(one, other, differs=bool(any(found))))


def _render_agreement(
    one: RunRecord, other: RunRecord, *, differs: bool
) -> Iterator[RenderableType]:
    prints = [record.tags.get("recipe.fingerprint") for record in (one, other)]
    if None in prints:
        return
    if prints[0] == prints[1]:
        yield Text()
        try:
            message = run_agreement.compare_records(one, other).summary
        except SpecError as error:
            message = str(error)
        yield Text(f"Numbers  {message}")
    elif not differs:
        yield Text(
            "\nThe fingerprints differ all the same: given weights or the processor may be others."
        )


def _render_parameters(one: RunRecord, other: RunRecord) -> RenderableType | None:
    """The parameters whose settings differed; those with the same changes share a line."""
    if not (one.parameters and other.parameters):
        return None
    names = dict.fromkeys([*one.parameters, *other.parameters])
    alike: dict[tuple[tuple[str, str, str], ...], list[str]] = {}
    for name in names:
        if changes := run_differences.compare_parameter(one, other, name):
            alike.setdefault(changes, []).append(name)
    if not alike:
        return None
    count = sum(map(len, alike.values()))
    table = _make_table("parameters", "what", "A", "B")
    for changes, held in list(alike.items())[:MAX_PARAMETER_ROWS]:
        for index, change in enumerate(changes):
            table.add_row(format_list(held, 2) if index == 0 else "", *change)
    if len(alike) > MAX_PARAMETER_ROWS:
        rest = sum(len(held) for held in list(alike.values())[MAX_PARAMETER_ROWS:])
        table.add_row(f"and {rest:,} more parameters, in other ways", "", "", "")
    return Group(_make_title(f"What differed per parameter ({count:,} of {len(names):,})"), table)


def _render_section(title: str, heading: str, rows: DifferenceRows) -> RenderableType | None:
    if not rows:
        return None
    table = _make_table(heading, "A", "B")
    for row in rows:
        table.add_row(*row)
    return Group(_make_title(title), table)


def _make_title(text: str) -> Text:
    return Text(text, style="italic")  # rich would wrap a table's title to its width


def _make_table(*columns: str) -> Table:
    table = make_table(*columns)
    for column in table.columns:
        column.overflow = "fold"
    return table
