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


def identity(fingerprint: str, checkpoint: Path) -> str:
    """The fingerprint of what a spec makes of a checkpoint; 64 hexadecimal digits."""
    text = f"{fingerprint} from {other(checkpoint)} {checkpoint.name}"
    return hashlib.sha256(text.encode()).hexdigest()


def other(checkpoint: Path) -> str:
    """The id of the run that wrote it."""
    return checkpoint.parent.parent.name


def keep(folder: Path, checkpoint: Path) -> None:
    """Keeps in a run's `came_from` what it goes on from; last the checkpoint, which says that all
    is there. Raises OSError."""
    folder /= other(checkpoint)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    for name in ("spec.yaml", "data.json"):
        shutil.copyfile(checkpoint.parent.parent / name, folder / name)
    try:
        os.link(checkpoint, folder / "checkpoints" / checkpoint.name)  # takes no room
    except OSError:
        temporary = folder / "checkpoints" / ".copy.tmp"
        shutil.copyfile(checkpoint, temporary)
        os.replace(temporary, folder / "checkpoints" / checkpoint.name)


def release(run: Path) -> None:
    """Frees the checkpoint that a finished run went on from; an empty file of its name still says
    which one that was. Raises OSError."""
    path = source(run)
    if path is not None and path.stat().st_size:
        atomic_write.write(path, b"")


def source(run: Path) -> Path | None:
    """The checkpoint that a run went on from, as it is kept there; None: it began anew."""
    return next((run / "came_from").glob("*/checkpoints/*.ckpt"), None)
