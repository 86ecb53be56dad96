"""A run that continues from a checkpoint of another run, its parent.

`<run>/came_from/<id of the parent>/` has the parent's spec, data.json and the checkpoint, so that
the run can be started again if the parent is gone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from recipe import atomic_write


def compute_branch_fingerprint(fingerprint: str, checkpoint: Path) -> str:
    """The fingerprint of a spec that continues from a checkpoint; 64 hexadecimal digits."""
    text = f"{fingerprint} from {get_parent_run_id(checkpoint)} {checkpoint.name}"
    return hashlib.sha256(text.encode()).hexdigest()


def get_parent_run_id(checkpoint: Path) -> str:
    """The id of the run that wrote a checkpoint."""
    return checkpoint.parent.parent.name


def store_parent(lineage_dir: Path, checkpoint: Path) -> None:
    """Copies the parent's files to `came_from`, the checkpoint last, which marks them as complete.
    Raises OSError."""
    lineage_dir /= get_parent_run_id(checkpoint)
    (lineage_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    for name in ("spec.yaml", "data.json"):
        shutil.copyfile(checkpoint.parent.parent / name, lineage_dir / name)
    try:
        os.link(checkpoint, lineage_dir / "checkpoints" / checkpoint.name)  # takes no disk space
    except OSError:
        temporary = lineage_dir / "checkpoints" / ".copy.tmp"
        shutil.copyfile(checkpoint, temporary)
        os.replace(temporary, lineage_dir / "checkpoints" / checkpoint.name)


def free_parent_checkpoint(run_dir: Path) -> None:
    """Replaces the parent's checkpoint of a finished run by an empty file. Raises OSError."""
    path = find_parent_checkpoint(run_dir)
    if path is not None and path.stat().st_size:
        atomic_write.write_file(path, b"")


def find_parent_checkpoint(run_dir: Path) -> Path | None:
    """The stored checkpoint that a run continued from; None if it started from scratch."""
    return next((run_dir / "came_from").glob("*/checkpoints/*.ckpt"), None)
