"""Damaged files of recorded runs, found by their first and last bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from recipe.config import safe_yaml
from recipe.formatting import escape_unprintable, format_list, pluralize

JSON_FILES = ("run.json", "sent.json", "result.json", "data.json")

JOURNAL_FILES = ("metrics.jsonl", "events.jsonl")

RECORD_FILES = frozenset(
    (*JSON_FILES, *JOURNAL_FILES, "spec.yaml", "parameters.csv", "environment.txt")
)

MAX_LISTED_RUNS = 20


def find_damaged_runs(run_dirs: Iterable[Path]) -> dict[Path, list[str]]:
    """Returns the names of damaged files by the folder of their run."""
    return {run: names for run in run_dirs if (names := find_damaged_files(run))}


def find_damaged_files(run_dir: Path) -> list[str]:
    """Returns the names of the damaged files of a run.

    A journal may end with an incomplete line, left by a killed process. Damage in the middle of a
    file isn't found.
    """
    try:
        with os.scandir(run_dir) as entries:
            known = [entry for entry in entries if entry.name in RECORD_FILES]
            return sorted(entry.name for entry in known if _is_damaged(entry))
    except OSError:
        return []


def _is_damaged(entry: os.DirEntry[str]) -> bool:
    try:
        if not entry.is_file():  # a folder, pipe, device or broken link
            return True
        descriptor = os.open(entry.path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            size = os.lseek(descriptor, 0, os.SEEK_END)
            first = os.pread(descriptor, 1, 0)
            last = os.pread(descriptor, 2, max(0, size - 2))
        finally:
            os.close(descriptor)
    except FileNotFoundError:  # a broken link, or removed meanwhile
        return entry.is_symlink()
    except OSError:
        return True
    if entry.name in JSON_FILES:
        return (
            first != b"{" or not last.rstrip().endswith(b"}") or size > safe_yaml.MAX_RECORD_BYTES
        )
    if entry.name in JOURNAL_FILES:
        torn = not last.endswith(b"\n")
        return bool(size) and (first != b"{" or not (torn or last == b"}\n"))
    if entry.name == "spec.yaml":
        return (
            not first.isalnum() and first not in (b"#", b"-", b"_")
        ) or size > safe_yaml.MAX_YAML_BYTES
    return False


def format_damage(found: Mapping[Path, Sequence[str]]) -> str:
    """`2 runs with damaged files: <id> (metrics.jsonl), <id> (result.json, spec.yaml)`."""
    named = [f"{escape_unprintable(run.name)} ({', '.join(names)})" for run, names in found.items()]
    return (
        f"{pluralize(len(found), 'run')} with damaged files: {format_list(named, MAX_LISTED_RUNS)}"
    )
