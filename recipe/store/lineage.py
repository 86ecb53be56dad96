"""A run that goes on from another one's checkpoint; what it came from is kept in its own folder.

`<run>/came_from/<id of the other run>/` holds that one's spec, the facts of its data, and the
checkpoint, so that a branch can begin once more whatever has become of the other run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from recipe import atomic_write


def compute_branch_fingerprint(fingerprint: str, checkpoint: Path) -> str:
    """The fingerprint of what a spec makes of a checkpoint; 64 hexadecimal digits."""
    text = f"{fingerprint} from {get_parent_run_id(checkpoint)} {checkpoint.name}"
    return hashlib.sha256(text.encode()).hexdigest()


def get_parent_run_id(checkpoint: Path) -> str:
    """The id of the run that wrote it."""
    return checkpoint.parent.parent.name


def store_parent(lineage_dir: Path, checkpoint: Path) -> None:
    """Keeps in a run's `came_from` what it goes on from; last the checkpoint, which says that all
    is there. Raises OSError."""
    lineage_dir /= get_parent_run_id(checkpoint)
    (lineage_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    for name in ("spec.yaml", "data.json"):
        shutil.copyfile(checkpoint.parent.parent / name, lineage_dir / name)
    try:
        os.link(checkpoint, lineage_dir / "checkpoints" / checkpoint.name)  # takes no room
    except OSError:
        temporary = lineage_dir / "checkpoints" / ".copy.tmp"
        shutil.copyfile(checkpoint, temporary)
        os.replace(temporary, lineage_dir / "checkpoints" / checkpoint.name)


def free_parent_checkpoint(run_dir: Path) -> None:
    """Frees the checkpoint that a finished run went on from; an empty file of its name still says
    which one that was. Raises OSError."""
    path = find_parent_checkpoint(run_dir)
    if path is not None and path.stat().st_size:
        atomic_write.write_file(path, b"")


def find_parent_checkpoint(run_dir: Path) -> Path | None:
    """The checkpoint that a run went on from, as it is kept there; None: it began anew."""
    return next((run_dir / "came_from").glob("*/checkpoints/*.ckpt"), None)
