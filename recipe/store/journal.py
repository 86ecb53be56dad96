"""A journal: a file of JSON lines that is only ever appended to, each line whole.

What a process that was killed, or a disk that was full, left of a line is no line: it is passed
over by readers, and cut off before anything is appended.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipe.config import safe_yaml
from recipe.formatting import escape_unprintable

NONDETERMINISTIC_PREFIXES = ("time/", "memory/")
"""How the keys of metrics begin that differ whenever they are computed again."""

MetricHistory = dict[str, dict[int, float]]
"""Of every metric: its value after a global step."""


class DamagedJournalError(ValueError):
    """A line of a journal isn't one that was ever written there."""


class Journal:
    """Appends to a file, which is made if it isn't there. A line that was written outlives the
    process; with `sync`, the machine."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab+", buffering=0)  # noqa: SIM115  (until close)
        self._truncate_partial_line()

    def append(self, content: Mapping[str, Any]) -> None:
        """Raises OSError, such as of a full disk; then nothing of it is in the file."""
        rest = memoryview(json.dumps(content).encode() + b"\n")
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except BaseException as error:  # a signal too can come between two parts of a line
            if isinstance(error, OSError):
                error.filename = self._file.name
            self._truncate_partial_line()
            raise

    def _truncate_partial_line(self) -> None:
        """Takes away what isn't a whole line; whole ones stay, as they may have been read."""
        size = self._file.seek(0, os.SEEK_END)
        whole = _find_last_line_end(size, self._file.fileno())
        if whole < size:
            self._file.truncate(whole)

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _find_last_line_end(size: int, descriptor: int) -> int:
    """Up to where a file of this size consists of whole lines."""
    end = size
    while end:
        start = max(0, end - 4096)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def read_lines(path: Path, start: int = 0, limit: int = -1) -> tuple[list[dict[str, Any]], int]:
    """The whole lines from byte `start` on, and the byte that the next read is to start at.

    With `limit` no more than about so many bytes are read, but at least a line if there is one. No
    file is an empty one. Raises Damaged for a line that isn't a JSON object, and for what is no
    ordinary file.
    """
    try:
        with safe_yaml.open_regular_file(path) as file:
            file.seek(start)
            content = file.read() if limit < 0 else file.read(limit) + file.readline()
    except FileNotFoundError:
        return [], start
    except OSError as error:
        raise DamagedJournalError(f"{escape_unprintable(path)}: {error.strerror}") from error
    whole = content.rfind(b"\n") + 1
    lines = []
    for number, line in enumerate(content[:whole].splitlines()):
        try:
            found = safe_yaml.read_json(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            number += count_lines(path) - count_lines(path, start) + 1
            raise DamagedJournalError(f"{escape_unprintable(path)}: line {number} is damaged")
        lines.append(found)
    return lines, start + whole


def read_metrics(run_dir: Path) -> MetricHistory:
    """Every metric of a recorded run. Of two values at one step the later one counts: that of a
    run which was taken up again. Raises Damaged."""
    found: MetricHistory = {}
    path = run_dir / "metrics.jsonl"
    for number, line in enumerate(read_lines(path)[0], 1):
        try:
            for key, value in line["metrics"].items():
                found.setdefault(key, {})[line["step"]] = value
        except (LookupError, TypeError, AttributeError) as error:
            raise DamagedJournalError(
                f"{escape_unprintable(path)}: line {number} is damaged"
            ) from error
    return found


def count_lines(path: Path, start: int = 0) -> int:
    """The number of whole lines from byte `start` on. Raises Damaged for what is no ordinary
    file."""
    try:
        with safe_yaml.open_regular_file(path) as file:
            file.seek(start)
            return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise DamagedJournalError(f"{escape_unprintable(path)}: {error.strerror}") from error


def hash_line(path: Path, end: int) -> str | None:
    """What tells the line that ends before byte `end` from others; empty for the very beginning.
    None if no line ends there."""
    if not end:
        return ""
    try:
        with safe_yaml.open_regular_file(path) as file:
            if os.pread(file.fileno(), 1, end - 1) != b"\n":
                return None
            start = _find_last_line_end(end - 1, file.fileno())
            return hashlib.sha256(os.pread(file.fileno(), end - start, start)).hexdigest()[:16]
    except OSError:
        return None


def read_last_line(path: Path) -> dict[str, Any] | None:
    """The last whole line; it alone is read. None if there is none, or it is damaged."""
    try:
        with safe_yaml.open_regular_file(path) as file:
            end = _find_last_line_end(file.seek(0, os.SEEK_END), file.fileno())
            start = _find_last_line_end(max(0, end - 1), file.fileno())
            line = safe_yaml.read_json(os.pread(file.fileno(), end - start, start))
            return line if isinstance(line, dict) else None
    except (OSError, ValueError):
        return None
