"""The checkpoint files of a run, and which of them may be removed."""

from __future__ import annotations

from pathlib import Path

PRUNABLE_STATUSES = ("FINISHED", "PRUNED")
"""Runs that failed or were killed are resumed from their checkpoints."""


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoints of a run, the oldest first."""
    return sorted((run_dir / "checkpoints").glob("step-*.ckpt"))


def list_removable_files(run_dir: Path, keep: int) -> list[Path]:
    """All checkpoints except the newest ones, and temporary files of killed processes."""
    paths = list_checkpoints(run_dir)
    strays = sorted((run_dir / "checkpoints").glob(".*.tmp"))
    return [*paths[: max(0, len(paths) - keep)], *strays]
