"""Folders as recorded runs leave them, written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from recipe.nn.weights import save_weights


def write(
    folder: Path,
    metrics: Mapping[str, Sequence[float | None]],
    *,
    status: str = "FINISHED",
    weights: Sequence[float] | None = None,
    tags: Mapping[str, str] | None = None,
    environment: str = "",
    digest: str | None = None,
) -> Path:
    """A run whose metrics have these values at steps 1, 2, ...; None: no point there."""
    folder.mkdir(parents=True)
    info = {"id": folder.name, "name": "baseline", "status": status}
    (folder / "run.json").write_text(json.dumps(info))
    length = max((len(values) for values in metrics.values()), default=0)
    lines = []
    for step in range(length):
        values = {k: v[step] for k, v in metrics.items() if step < len(v) and v[step] is not None}
        lines.append(json.dumps({"step": step + 1, "time": 0, "metrics": values}) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines))
    event = {"kind": "tags", "time": 0, **(tags or {})}
    (folder / "events.jsonl").write_text(json.dumps(event) + "\n")
    (folder / "environment.txt").write_text(environment)
    if digest is not None:
        facts = {"classes": ["a"], "channels": 1, "size": [8, 8], "mean": [0.0], "std": [1.0]}
        (folder / "data.json").write_text(json.dumps({**facts, "digest": digest}))
    if weights is not None:
        save_weights({"weight": torch.tensor(weights)}, folder / "model.safetensors")
    return folder
