"""Which checkpoints of a run may be removed."""

from __future__ import annotations

from pathlib import Path

ENDED = ("FINISHED", "PRUNED")
"""Runs that failed or were killed are resumed from their checkpoints."""


def written(run_folder: Path) -> list[Path]:
    """The checkpoints of a run, the oldest first."""
    return sorted((run_folder / "checkpoints").glob("step-*.ckpt"))


def removable(run_folder: Path, keep: int) -> list[Path]:
    """All checkpoints of a run but its newest ones, and what killed writers left."""
    paths = written(run_folder)
    strays = sorted((run_folder / "checkpoints").glob(".*.tmp"))
    return [*paths[: max(0, len(paths) - keep)], *strays]
