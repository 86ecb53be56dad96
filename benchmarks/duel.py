"""recipe measured side by side with what it would replace; writes the tables of the README.

    python benchmarks/duel.py [TABLE ...] [rounds=5] [threads=1,2]

Tables: run, loop, frozen, sweep, sweep_head, sweep_blocks, startup, many, peers, peers_large; all
of them without a name. Each is kept in benchmarks/duel.json, of which the README's tables are made,
so one can be measured anew alone. Nothing is installed: peers that aren't there are left out
(pip install -c constraints.txt -e '.[bench]').

Rules: everything is run in turn in one sitting, A B A B, and medians of the ratios are shown, of
processor time and of wall time, with the number of threads fixed. It is the same work: model,
initial weights, batches, optimizer, an evaluation after each epoch. Final losses that differ by
more than 1e-4 make a row void.
"""

from __future__ import annotations

import compileall
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from duels import contest, results
from duels.results import COLUMNS, Table

TABLES = {
    "run": "single.process",
    "loop": "single.loop",
    "frozen": "frozen.table",
    "sweep": "sweeps.sweep",
    "sweep_head": "sweeps.head",
    "sweep_blocks": "sweeps.blocks",
    "startup": "startup.table",
    "many": "many.table",
    "peers": "contest.tiny",
    "peers_large": "contest.large",
}
"""Module and function in duels/, in the order of the README."""

KEPT = Path(__file__).parent / "duel.json"

README = Path(__file__).parent.parent / "README.md"


def measured(name: str, rounds: int, threads: Sequence[int]) -> Table:
    module, _, function = TABLES[name].partition(".")
    table: Callable[..., list[list[str]]] = getattr(import_module(f"duels.{module}"), function)
    with tempfile.TemporaryDirectory() as folder:
        rows = table(Path(folder), rounds, threads)
    columns = contest.COLUMNS if name.startswith("peers") else COLUMNS
    return Table(columns, rows, results.where())


def kept() -> list[Table]:
    """In the order of the README."""
    found = results.read(KEPT)
    return [found[name] for name in TABLES if name in found]


def main(arguments: Sequence[str]) -> None:
    given = dict(a.split("=", 1) for a in arguments if "=" in a)
    rounds = int(given.pop("rounds", "5"))
    threads = [int(count) for count in given.pop("threads", "1,2").split(",")]
    names = [a for a in arguments if "=" not in a] or list(TABLES)
    if unknown := [*given, *(name for name in names if name not in TABLES)]:
        sys.exit(f"{', '.join(unknown)}: no such table or argument; there are {', '.join(TABLES)}")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for folder in ("recipe", "benchmarks"):  # as pip does with what it installs
        compileall.compile_dir(README.parent / folder, quiet=1)
    for name in names:
        began = time.monotonic()
        print(f"{name}:", flush=True)
        table = measured(name, rounds, threads)
        print(f"\n{results.markdown([table])}\n{time.monotonic() - began:.0f} s\n", flush=True)
        results.write(KEPT, {**results.read(KEPT), name: table})
        readme = results.put(README.read_text(encoding="utf-8"), kept())
        README.write_text(readme, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
