"""How far a recorded run has come, and with which settings: read from its journals, with care, and
of those of a long run not more than that takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.store import journal

HEAD_BYTES = 100_000
"""Bytes of a journal's beginning in which the tags of a run's start are."""


@dataclass(frozen=True)
class RunProgress:
    """As much of it as is known."""

    step: int | None
    """The last global step that was recorded."""
    total_steps: int | None
    """Those of the whole run."""

    def __str__(self) -> str:
        step = "-" if self.step is None else f"{self.step}"
        return f"{step} of {self.total_steps}" if self.total_steps else step

    @property
    def fraction(self) -> float:
        """What is done of it, from 0 to 1; 0 if that isn't known."""
        return min(1.0, (self.step or 0) / self.total_steps) if self.total_steps else 0.0


def read_progress(run_dir: Path) -> RunProgress:
    line = journal.read_last_line(run_dir / "metrics.jsonl") or {}
    steps = next(
        (e["recipe.steps"] for e in _read_events(run_dir, HEAD_BYTES) if "recipe.steps" in e), None
    )
    return RunProgress(_parse_step(line.get("step")), _parse_step(steps))


def read_parameters(run_dir: Path) -> dict[str, str]:
    """The options and settings that were recorded, as text."""
    found = (event for event in _read_events(run_dir) if event.get("kind") == "parameters")
    return {key: str(value) for event in found for key, value in event.items()}


def _read_events(run_dir: Path, limit: int = -1) -> list[dict[str, Any]]:
    try:
        return journal.read_lines(run_dir / "events.jsonl", 0, limit)[0]
    except (OSError, ValueError):
        return []


def _parse_step(value: object) -> int | None:
    return int(str(value)) if str(value).isdecimal() and len(str(value)) < 19 else None
