"""Sweeps of finished runs, written by hand: what `compare` reads."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import commands

DEFAULTS = {"model": "vgg", "freeze": "none", "scheduler": "constant", "clip": "none"}

SWEEP = "20261101-120000-00000000"


def run(
    outputs: Path,
    number: int,
    accuracies: Sequence[float],
    settings: Mapping[str, str] | None = None,
    *,
    seed: int = 0,
    status: str = "FINISHED",
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    start: Mapping[str, str] | None = None,
) -> str:
    """A run with these accuracies after its epochs; its id."""
    id_ = f"20261101-120000-{number:08x}"
    folder = outputs / "runs" / id_
    folder.mkdir(parents=True)
    info = {"id": id_, "name": f"run {number}", "status": status, "sweep": SWEEP}
    (folder / "run.json").write_text(json.dumps(info))
    hashes = {"weights": f"w{seed}", "split": f"s{seed}", **(start or {})}
    told = {**{f"start.{name}": what for name, what in hashes.items()}, **(tags or {})}
    events: list[dict[str, Any]] = [
        {"kind": "started", "time": 1000},
        {"kind": "parameters", "time": 1000, "seed": str(seed), **DEFAULTS, **(settings or {})},
        {"kind": "tags", "time": 1000, **told},
        {"kind": "end", "time": 11_000, "status": status},
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    lines = [
        {"step": 5 * (epoch + 1), "time": 0, "metrics": {"val/accuracy": value, **(metrics or {})}}
        for epoch, value in enumerate(accuracies)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return id_


def sweep(outputs: Path, ids: Sequence[str], *, name: str = "a sweep", jobs: int = 0) -> str:
    """A sweep of these runs; its id."""
    folder = outputs / "sweeps" / SWEEP
    folder.mkdir(parents=True)
    about = {"name": name, "swept": ["clip", "seed"], "jobs": jobs or len(ids), "digest": "d"}
    (folder / "sweep.json").write_text(json.dumps(about))
    lines = [
        {"number": number, "name": f"job {number}", "status": "FINISHED", "run": id_}
        for number, id_ in enumerate(ids)
    ]
    (folder / "jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return SWEEP


def pairs(outputs: Path, differences: Sequence[float], **with_it: Any) -> list[str]:
    """For every difference a run of 0.5 and one with clip=norm that differs from it by that."""
    ids = []
    for seed, difference in enumerate(differences):
        ids.append(run(outputs, 2 * seed, [0.5] * 2, seed=seed, metrics={"time/epoch_s": 2.0}))
        settings = {"clip": "norm", "clip.max_norm": "1.0"}
        metrics = {"time/epoch_s": 2.5, "clip/hit_rate": 0.25}
        ids.append(
            run(
                outputs, 2 * seed + 1, [0.5 + difference] * 2, settings, seed=seed, metrics=metrics,
                **with_it,
            )
        )  # fmt: skip
    return ids


RISING = [0.01, 0.02, 0.03, 0.02, 0.01, 0.03, 0.02, 0.02]

CLIP, STEP = {"clip": "norm"}, {"scheduler": "step"}


def compared(folder: Path, *arguments: str) -> str:
    done = commands.run(folder, "compare", *arguments)
    assert done.status == 0, done.err
    return done.out


def rows(folder: Path, table: str) -> dict[str, dict[str, str]]:
    (path,) = (folder / "outputs" / "reports").glob(f"*/{table}.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return {next(iter(line.values())): line for line in csv.DictReader(file)}


def lines(out: str, *parts: str) -> list[str]:
    return [line for line in out.splitlines() if all(part in line for part in parts)]
