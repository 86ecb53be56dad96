"""Diff: what differed between two recorded runs in what really ran, beside what came of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from recipe.compare import agreement, run_differences
from recipe.compare.run_differences import Rows
from recipe.config.key_values import key_values
from recipe.errors import SpecError
from recipe.formatting import listed
from recipe.store import run_dirs, run_record
from recipe.store.run_record import Record, shown

MOST = 12
"""Lines about parameters."""


def diff(arguments: Sequence[str], console: Console) -> int:
    """The verb: two runs, each an id, its beginning, a name or MLflow's id."""
    if len(arguments) < 2:
        raise SpecError("diff: which two runs? Give their ids: python -m recipe diff <id> <id>")
    outputs = run_dirs.outputs(key_values("diff", arguments[2:], {"output_dir": ""})["output_dir"])
    one, other = (run_record.read(_folder(outputs, wanted)) for wanted in arguments[:2])
    console.print(describe(one, other))
    return 0


def _folder(outputs: Path, wanted: str) -> Path:
    """The folder of a run; by its whole id also where run.json is damaged. Raises SpecError."""
    exact = run_dirs.folder(outputs) / wanted
    with contextlib.suppress(OSError):
        if wanted not in ("", ".", "..") and Path(wanted).name == wanted and exact.is_dir():
            return exact
    return run_dirs.find(outputs, wanted, "diff")


def describe(one: Record, other: Record) -> RenderableType:
    """Everything that is shown, for a terminal of 100 columns."""
    head = _table("", "run", "name", "status")
    for letter, record in (("A", one), ("B", other)):
        head.add_row(letter, shown(record.folder.name), record.name, record.status)
    parts: list[RenderableType] = [head]
    for letter, record in (("A", one), ("B", other)):
        parts += [Text(f"Damaged  {letter}: {line}", style="yellow") for line in record.damaged]
    found = [
        _section("What differed in the spec", "setting", run_differences.settings(one, other)),
        _parameters(one, other),
        _section("What differed around it", "", run_differences.surroundings(one, other)),
    ]
    sections = [section for section in found if section is not None]
    if not sections:
        whole = not (one.damaged or other.damaged)
        sections = [Text(f"Nothing differed in what {'ran' if whole else 'can be read'}.")]
    for section in (
        *sections,
        _section("What came of it", "", run_differences.results(one, other)),
    ):
        if section is not None:
            parts += [Text(), section]
    return Group(*parts, *_agreement(one, other, differs=bool(any(found))))


def _agreement(one: Record, other: Record, *, differs: bool) -> Iterator[RenderableType]:
    prints = [record.tags.get("recipe.fingerprint") for record in (one, other)]
    if None in prints:
        return
    if prints[0] == prints[1]:
        yield Text()
        try:
            told = agreement.compare_records(one, other).sentence
        except SpecError as error:
            told = str(error)
        yield Text(f"Numbers  {told}")
    elif not differs:
        yield Text(
            "\nThe fingerprints differ all the same: given weights or the processor may be others."
        )


def _parameters(one: Record, other: Record) -> RenderableType | None:
    """Which parameters were treated differently, alike ones in one line."""
    if not (one.parameters and other.parameters):
        return None
    names = dict.fromkeys([*one.parameters, *other.parameters])
    alike: dict[tuple[tuple[str, str, str], ...], list[str]] = {}
    for name in names:
        if changes := run_differences.parameter(one, other, name):
            alike.setdefault(changes, []).append(name)
    if not alike:
        return None
    count = sum(map(len, alike.values()))
    table = _table("parameters", "what", "A", "B")
    for changes, held in list(alike.items())[:MOST]:
        for index, change in enumerate(changes):
            table.add_row(listed(held, 2) if index == 0 else "", *change)
    if len(alike) > MOST:
        rest = sum(len(held) for held in list(alike.values())[MOST:])
        table.add_row(f"and {rest:,} more parameters, in other ways", "", "", "")
    return Group(_title(f"What differed per parameter ({count:,} of {len(names):,})"), table)


def _section(title: str, heading: str, rows: Rows) -> RenderableType | None:
    if not rows:
        return None
    table = _table(heading, "A", "B")
    for row in rows:
        table.add_row(*row)
    return Group(_title(title), table)


def _title(text: str) -> Text:
    """Of a table; one of its own would be wrapped to the table's width."""
    return Text(text, style="italic")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
