"""Whether two recorded runs are the same one, bit for bit."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import commands
import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

from recipe.checkpoint.files import Checkpoints
from recipe.store.journal import read_metrics

CLOCKED = ("time/", "memory/")

TEXTS = ("spec.yaml", "plan.txt", "parameters.csv", "summary.txt", "data.json")

PICTURES = ("lr.png", "curves.png")


def finished(folder: Path) -> Path:
    """The only run below a working directory, which is finished."""
    (run,) = [run for run in commands.run_dirs(folder) if (run / "run.json").exists()]
    assert commands.read_json(run / "run.json")["status"] == "FINISHED"
    return run


def numbers_alike(run: Path, other: Path) -> None:
    """Every point, but for the values of times and memory, and the weights kept."""
    traces = [
        {k: v.keys() if k.startswith(CLOCKED) else v for k, v in read_metrics(r).items()}
        for r in (run, other)
    ]
    assert traces[0] == traces[1]
    weights = [load_file(r / "model.safetensors") for r in (run, other)]
    same(weights[0], weights[1], "weights")


def alike(run: Path, other: Path) -> None:
    """As `numbers_alike`, and all of the last checkpoint."""
    numbers_alike(run, other)
    settings = {"every": 1, "per": "epoch", "keep": 1, "keep_finished": 1}
    states = [Checkpoints(r, settings).load_latest() for r in (run, other)]
    for state in states:
        assert state is not None
        del state["run"]["position"]["seconds"]
    same(states[0], states[1], "state")


def recorded_alike(run: Path, other: Path) -> None:
    """As `alike`, and all that is told of them."""
    alike(run, other)
    assert told(run) == told(other)
    for name in (*TEXTS, *PICTURES):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name


def same(one: object, other: object, where: str) -> None:
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def told(run: Path) -> dict[str, Any]:
    """What the journal of events says in the end; the run's id is left out."""
    found: dict[str, Any] = {"parameters": {}, "tags": {}, "artifacts": set(), "status": None}
    for event in commands.read_lines(run / "events.jsonl"):
        content = {k: v for k, v in event.items() if k not in ("kind", "time")}
        if event["kind"] in found:
            found[event["kind"]] |= {k: _less(v, run.name) for k, v in content.items()}
        elif event["kind"] == "artifact":
            found["artifacts"].add(event["path"])
        elif event["kind"] in ("end", "resumed"):
            found["status"] = event.get("status")
    return found


def _less(text: str, run_id: str) -> str:
    """A text without what was typed, and without the run's id."""
    lines = [line for line in text.splitlines() if not line.startswith("`python -m recipe")]
    return "\n".join(lines).replace(run_id, "<run>")


def in_mlflow(run: Path) -> None:
    """MLflow has what the journals say, every point once, and nothing else."""
    client = MlflowClient(f"sqlite:///{_copy(run.parent.parent / 'mlflow.db')}")
    found = client.search_runs(["1"], f"tags.`recipe.run` = '{run.name}'")
    assert len(found) == 1
    kept, said = found[0], told(run)
    assert kept.info.status == said["status"] == "FINISHED"
    assert kept.info.end_time and kept.info.end_time >= kept.info.start_time
    assert kept.data.params == said["parameters"]
    tags = {key: _less(value, run.name) for key, value in kept.data.tags.items()}
    assert tags.items() >= said["tags"].items()
    artifacts = {file.path for file in client.list_artifacts(kept.info.run_id)}
    assert artifacts == said["artifacts"]
    recorded = read_metrics(run)
    assert kept.data.metrics.keys() == recorded.keys()
    for key, values in recorded.items():
        history = client.get_metric_history(kept.info.run_id, key)
        assert sorted((p.step, p.value) for p in history) == sorted(values.items()), key


def _copy(database: Path) -> Path:
    """MLflow keeps a database open for as long as the process lives, even if it is replaced."""
    copy = Path(tempfile.mkdtemp(dir=database.parent.parent)) / database.name
    with (
        contextlib.closing(sqlite3.connect(database)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
    return copy
