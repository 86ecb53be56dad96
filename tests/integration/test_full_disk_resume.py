"""A disk that is full, or a quota that is reached: the run stops with the reason, what was written
before is whole, and with room it goes on."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import commands
import pytest
from run_equality import alike, finished

SMALL = (
    *commands.CPU, "epochs=3", "data=random", "data.n_train=20", "data.n_val=10",
    "data.channels=1", "data.size=16", "data.classes=3", "data.batch_size=8",
    "data.eval_batch_size=4", "model.widths=[8,16]", "tracking=none",
)  # fmt: skip

LIMITED = """
import resource, sys
from recipe.cli import main
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
main.main(sys.argv[2:])
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert commands.run(folder, *SMALL).status == 0
    return finished(folder)


def test_unwritable_checkpoint_stops_run_and_leaves_record_intact(
    tmp_path: Path, whole: Path
) -> None:
    """The limit is on every file's size; checkpoints are the largest, and grow with the best
    epoch's weights."""
    sizes = [path.stat().st_size for path in whole.glob("checkpoints/*")]
    program = (sys.executable, "-c", LIMITED, str(min(sizes) - 1))
    done = commands.spawn(tmp_path, *SMALL, program=program)
    (run,) = commands.run_dirs(tmp_path)
    (problem,) = done.problems
    path = run / "checkpoints" / "step-000000003.ckpt"
    assert done.status == 1
    assert problem == (
        f"recipe: checkpoint: {path} can't be written: File too large; there is no earlier one; "
        f"make room, then python -m recipe resume {run.name}"
    )
    assert commands.read_json(run / "run.json")["status"] == "FAILED"
    assert not list((run / "checkpoints").iterdir())
    assert commands.run(tmp_path, "resume", run.name).status == 0
    alike(finished(tmp_path), whole)


@contextlib.contextmanager
def disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk of its own of so many bytes."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk can't be mounted here: it takes the rights of root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


# kilobytes: for two checkpoints, the weights of the best epoch, the texts, and hardly anything
@pytest.mark.parametrize("room", [300, 60, 36, 4])
def test_run_stopped_by_full_disk_resumes_after_space_is_freed(
    tmp_path: Path, whole: Path, room: int
) -> None:
    with disk(tmp_path / "disk", 2**20) as folder:
        filler = folder / "filler"
        filler.write_bytes(bytes(2**20 - 1024 * (room + 4)))
        done = commands.run(folder, *SMALL)
        assert done.status == 1, done
        (problem,) = done.problems
        assert "No space left on device" in problem
        advice = problem.rpartition("; make room, then ")[2]
        filler.unlink()
        resumes = advice.removeprefix("python -m recipe ").split()
        assert resumes[0] == "resume" or advice == "start it again"
        again = commands.run(folder, *(resumes if resumes[0] == "resume" else SMALL))
        assert again.status == 0, again.err
        (run,) = [r for r in commands.run_dirs(folder) if status(r) == "FINISHED"]
        alike(run, whole)


def status(run: Path) -> str | None:
    path = run / "run.json"
    return commands.read_json(path)["status"] if path.exists() else None
