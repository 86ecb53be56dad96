"""What a command that is killed can leave: its outputs as they are before each of its file
operations, and between the lines of its journals.

Run as a program: `killed_states.py <folder for the states> <recipe's arguments>`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands

OPERATIONS = ("open", "os.rename", "os.mkdir", "os.remove", "os.truncate")
"""Python's audit events before files and folders are made, changed or removed."""

DATABASE = "mlflow.db"

JOURNALS = ("events.jsonl", "metrics.jsonl", "jobs.jsonl")

Journals = dict[Path, bytes]
"""By path below the working directory."""


def killed(folder: Path, states: Path, *arguments: str) -> list[Path]:
    """Runs `recipe <arguments>` in `folder`; the states it went through, in order, each as a
    working directory with `outputs` in it."""
    states.mkdir()
    program = (sys.executable, __file__, str(states))
    done = commands.spawn(folder, *arguments, program=program)
    assert done.status == 0, done.err
    seen = sorted(states.iterdir())
    for before, after in itertools.pairwise(seen):
        for number, journals in enumerate(_between(_journals(before), _journals(after))):
            other = states / f"{after.name}-{number}"
            shutil.copytree(after, other)
            for path, content in journals.items():
                (other / path).write_bytes(content)
    return sorted(states.iterdir())


def _journals(state: Path) -> Journals:
    return {p.relative_to(state): p.read_bytes() for p in state.rglob("*") if p.name in JOURNALS}


def _between(before: Journals, after: Journals) -> Iterator[Journals]:
    """Nothing of what was appended between two operations, and for each journal half of it."""
    grown = [path for path in after if path in before and after[path] != before[path]]
    if grown:
        yield {path: before[path] for path in grown}
    for path in grown:
        middle = (len(before[path]) + len(after[path])) // 2
        yield {**{p: before[p] for p in grown}, path: after[path][:middle]}


class Camera:
    """Copies `outputs` whenever something in it is about to change, if it has changed since."""

    def __init__(self, outputs: Path, states: Path) -> None:
        self.outputs, self.states = outputs, states
        self.lock = threading.Lock()
        self.busy = threading.local()
        self.seen: set[tuple[Any, ...]] = set()

    def look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in OPERATIONS or getattr(self.busy, "now", False):
            return
        if event == "open" and not _writes(*arguments):
            return
        paths = [os.fsdecode(a) for a in arguments[:2] if isinstance(a, str | bytes | os.PathLike)]
        if not any(path.startswith(f"{self.outputs}{os.sep}") for path in paths):
            return
        # to the thread that feeds MLflow the others stand still only when the run has ended
        if threading.current_thread() is threading.main_thread() or self._ended():
            self.busy.now = True
            try:
                with self.lock:
                    self._take()
            finally:
                self.busy.now = False

    def _ended(self) -> bool:
        events = list(self.outputs.glob("runs/*/events.jsonl"))
        return any('"kind": "end"' in path.read_text() for path in events)

    def _take(self) -> None:
        if not self.outputs.exists():
            return
        look = tuple(
            (str(path), path.stat().st_mtime_ns, path.stat().st_size)
            for path in sorted(self.outputs.rglob("*"))
            if path.exists() and not path.name.startswith(DATABASE)
        )
        if look in self.seen:
            return
        self.seen.add(look)
        state = self.states / f"{len(self.seen):03}" / self.outputs.name
        try:
            shutil.copytree(self.outputs, state, ignore=shutil.ignore_patterns(f"{DATABASE}*"))
        except shutil.Error:  # another thread has just renamed a file
            return shutil.rmtree(state.parent)
        if (self.outputs / DATABASE).exists():
            source, copy = (sqlite3.connect(f / DATABASE) for f in (self.outputs, state))
            with contextlib.closing(source), contextlib.closing(copy):
                source.backup(copy)  # what is committed, as a process leaves it that is killed


def _writes(path: object, mode: object, flags: object) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wa+x")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))


def main() -> None:
    states, *arguments = sys.argv[1:]
    from recipe.cli import main as cli

    sys.addaudithook(Camera(Path.cwd() / "outputs", Path(states)).look)
    cli.main(arguments)


if __name__ == "__main__":
    main()
