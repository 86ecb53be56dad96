"""The measured tables: kept in one file, and the Markdown that the README has of it."""

from __future__ import annotations

import functools
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from itertools import groupby
from pathlib import Path

import psutil

from duels.turns import Took, times, void
from recipe.components.device import cpu_name

BEGIN, END = "<!-- measured by benchmarks/duel.py -->", "<!-- end of what was measured -->"

NOTHING = "Nothing is measured yet."

COLUMNS = ("what", "against", "threads", "rounds", "processor time", "wall time", "ours")


@dataclass(frozen=True)
class Table:
    """Cells as they are shown; `where` says on what they were measured."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    where: str


def row(
    what: str,
    against: str,
    threads: int,
    theirs: Sequence[Took],
    ours: Sequence[Took],
    *,
    because: str | None = None,
) -> list[str]:
    """How many times as long they took as ours, and how long that was. It is void `because` of
    something, or else where the final losses differ; "" if they need not agree."""
    because = void(theirs, ours) if because is None else because
    ratios = [number(times(theirs, ours, kind)) for kind in ("processor", "wall")]
    if because:
        ratios = [f"void: {because}", "-"]
    median = sorted(each.wall for each in ours)[len(ours) // 2]
    return [what, against, str(threads), str(len(ours)), *ratios, seconds(median)]


def number(ratio: float) -> str:
    """Three digits at most."""
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}"


def seconds(value: float) -> str:
    return f"{1000 * value:.1f} ms" if value < 0.1 else f"{value:.2f} s"


def where() -> str:
    """Processor and versions."""
    of = ("torch", "mlflow", "hydra-core")
    versions = ", ".join(f"{name} {installed(name)}" for name in of)
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count()
    return f"{cpu_name()}, {cores} cores, Python {platform.python_version()}, {versions}"


@functools.cache
def installed(name: str) -> str:
    """The version; empty if it isn't there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def read(path: Path) -> dict[str, Table]:
    if not path.exists():
        return {}
    return {name: Table(**table) for name, table in json.loads(path.read_text()).items()}


def write(path: Path, tables: dict[str, Table]) -> None:
    content = {name: asdict(table) for name, table in tables.items()}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def markdown(tables: Sequence[Table]) -> str:
    """Tables that stand beside each other and have the same columns are one; under it, where it
    was measured."""
    if not tables:
        return NOTHING
    parts = []
    for columns, same in groupby(tables, lambda table: tuple(table.columns)):
        gathered = list(same)
        words = sum(name in ("what", "against", "peer") for name in columns)
        lines = [
            _line(columns),
            _line(["---"] * words + ["---:"] * (len(columns) - words)),
            *(_line(cells) for table in gathered for cells in table.rows),
            "",
            *(f"{text}." for text in dict.fromkeys(table.where for table in gathered)),
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def put(text: str, tables: Sequence[Table]) -> str:
    """A README with these tables between its two marks. Raises ValueError without them."""
    before, began, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not began or not ended:
        raise ValueError(f"README.md needs the lines {BEGIN} and {END}, for the tables")
    return f"{before}{BEGIN}\n\n{markdown(tables)}\n\n{END}{after}"
