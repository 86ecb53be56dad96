"""The settings and the times of recorded runs, until recipe/results.py is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recipe import journal, runs
from recipe.errors import SpecError


@dataclass(frozen=True)
class Result:
    status: str
    seed: str | None
    settings: dict[str, str]
    seconds: float | None


def read_all(outputs: Path) -> list[Result]:
    found = []
    for path in sorted(runs.folder(outputs).glob("*/run.json")):
        try:
            info, (events, _) = (
                runs.read(path.parent, "run"),
                journal.read(path.parent / "events.jsonl"),
            )
        except (SpecError, journal.Damaged):
            continue
        settings: dict[str, str] = {}
        for event in events:
            if event["kind"] == "parameters":
                settings |= {k: str(v) for k, v in event.items() if k not in ("kind", "time")}
        ends = [event["time"] for event in events if event["kind"] == "end"]
        seconds = (ends[-1] - events[0]["time"]) / 1000 if ends else None
        found.append(Result(info.status, settings.pop("seed", None), settings, seconds))
    return found
