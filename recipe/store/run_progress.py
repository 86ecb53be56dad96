"""How far a recorded run has come, and with which settings: read from its journals, with care, and
of those of a long run not more than that takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.store import journal

HEAD = 100_000
"""Bytes of a journal's beginning in which the tags of a run's start are."""


@dataclass(frozen=True)
class Reached:
    """As much of it as is known."""

    step: int | None
    """The last global step that was recorded."""
    steps: int | None
    """Those of the whole run."""

    def __str__(self) -> str:
        step = "-" if self.step is None else f"{self.step}"
        return f"{step} of {self.steps}" if self.steps else step

    @property
    def share(self) -> float:
        """What is done of it, from 0 to 1; 0 if that isn't known."""
        return min(1.0, (self.step or 0) / self.steps) if self.steps else 0.0


def reached(run: Path) -> Reached:
    line = journal.last(run / "metrics.jsonl") or {}
    steps = next((e["recipe.steps"] for e in _events(run, HEAD) if "recipe.steps" in e), None)
    return Reached(_whole(line.get("step")), _whole(steps))


def parameters(run: Path) -> dict[str, str]:
    """The options and settings that were recorded, as text."""
    found = (event for event in _events(run) if event.get("kind") == "parameters")
    return {key: str(value) for event in found for key, value in event.items()}


def _events(run: Path, limit: int = -1) -> list[dict[str, Any]]:
    try:
        return journal.read(run / "events.jsonl", 0, limit)[0]
    except (OSError, ValueError):
        return []


def _whole(value: object) -> int | None:
    return int(str(value)) if str(value).isdecimal() and len(str(value)) < 19 else None
