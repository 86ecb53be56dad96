"""The job that a recipe command line stands for, written for those that it is measured against."""

from __future__ import annotations

from pathlib import Path

import torch

from recipe.config import compose
from recipe.config.spec import RunSpec
from recipe.training.build import build
from recipe.training.run import Run, epoch_batches


def spec(*overrides: str) -> RunSpec:
    with compose.composition_context():
        return compose.Job(("tracking=none", *overrides), ()).to_spec()


def write(path: Path, *overrides: str) -> Path:
    """Of a run of the default kind: a VGG, cross entropy, SGD."""
    composed = spec("device=cpu", "channels_last=false", *overrides)
    run = build(composed)
    settings = composed.optimizer
    sgd = {key: settings[key] for key in ("lr", "momentum", "weight_decay")}
    content = {
        "train": part(run, "train"),
        "val": part(run, "val"),
        "order": torch.stack(
            [torch.cat(list(epoch_batches(run, epoch))) for epoch in range(run.epochs)]
        ),
        "weights": [tensor.clone() for tensor in run.model.state_dict().values()],
        "widths": composed.model["widths"],
        "classes": len(run.data.classes),
        "batch_size": run.batch_size,
        "eval_batch_size": run.eval_batch_size,
        "sgd": sgd,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def part(run: Run, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """All inputs and targets of a part of the data."""
    split = getattr(run.data, name)
    inputs, targets = next(iter(split.batches([torch.arange(len(split))])))
    return inputs.contiguous(), targets
