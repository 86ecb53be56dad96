"""A journal: an append-only file of JSON lines.

An incomplete last line, left by a killed process or a full disk, is skipped by readers and removed
before anything is appended.
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
"""Prefixes of the metrics that differ each time that they are computed."""

MetricHistory = dict[str, dict[int, float]]
"""By metric: its values by global step."""


class DamagedJournalError(ValueError):
    """A line of a journal is not what was written."""


class Journal:
    """Appends to a file, which is created if needed. Lines survive the end of the process, and
    after `sync` that of the machine."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab+", buffering=0)  # noqa: SIM115  (until close)
        self._truncate_partial_line()

    def append(self, content: Mapping[str, Any]) -> None:
        """Raises OSError, such as for a full disk; then the file is unchanged."""
        rest = memoryview(json.dumps(content).encode() + b"\n")
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except BaseException as error:  # or a signal between two parts of a line
            if isinstance(error, OSError):
                error.filename = self._file.name
            self._truncate_partial_line()
            raise

    def _truncate_partial_line(self) -> None:
        """Complete lines stay, as they may have been read."""
        size = self._file.seek(0, os.SEEK_END)
        end = _find_last_line_end(size, self._file.fileno())
        if end < size:
            self._file.truncate(end)

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _find_last_line_end(size: int, descriptor: int) -> int:
    """Returns the offset after the last complete line in the first `size` bytes."""
    end = size
    while end:
        start = max(0, end - 4096)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def read_lines(path: Path, start: int = 0, limit: int = -1) -> tuple[list[dict[str, Any]], int]:
    """Returns the complete lines from byte `start` on, and the offset after them.

    `limit` is in bytes, rounded up to a line. A missing file is empty. Raises DamagedJournalError
    for a line that is not a JSON object, and if `path` is not a regular file.
    """
    try:
        with safe_yaml.open_regular_file(path) as file:
            file.seek(start)
            content = file.read() if limit < 0 else file.read(limit) + file.readline()
    except FileNotFoundError:
        return [], start
    except OSError as error:
        raise DamagedJournalError(f"{escape_unprintable(path)}: {error.strerror}") from error
    end = content.rfind(b"\n") + 1
    lines = []
    for number, line in enumerate(content[:end].splitlines()):
        try:
            found = safe_yaml.read_json(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            number += count_lines(path) - count_lines(path, start) + 1
            raise DamagedJournalError(f"{escape_unprintable(path)}: line {number} is damaged")
        lines.append(found)
    return lines, start + end


def read_metrics(run_dir: Path) -> MetricHistory:
    """Returns every metric of a recorded run; the later of two values at one step, which a resumed
    run has. Raises DamagedJournalError."""
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
    """Returns the number of lines from byte `start` on. Raises DamagedJournalError if `path` is not
    a regular file."""
    try:
        with safe_yaml.open_regular_file(path) as file:
            file.seek(start)
            return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise DamagedJournalError(f"{escape_unprintable(path)}: {error.strerror}") from error


def hash_line(path: Path, end: int) -> str | None:
    """Returns a hash of the line that ends before byte `end`, empty for offset 0, and None if no
    line ends there."""
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
    """Returns the last complete line, without reading others; None if there is none, or it is
    damaged."""
    try:
        with safe_yaml.open_regular_file(path) as file:
            end = _find_last_line_end(file.seek(0, os.SEEK_END), file.fileno())
            start = _find_last_line_end(max(0, end - 1), file.fileno())
            line = safe_yaml.read_json(os.pread(file.fileno(), end - start, start))
            return line if isinstance(line, dict) else None
    except (OSError, ValueError):
        return None
