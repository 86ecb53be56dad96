"""A disk that is full: the run ends with the reason, and what was recorded stays whole."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import commands
import pytest
import servers
from mlflow.tracking import MlflowClient

from recipe import runs


def client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder}/outputs/mlflow.db")


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
from recipe.cli import main
main(sys.argv[1:])
"""


@pytest.mark.long
def test_a_file_that_may_not_grow_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    command = (*commands.QUICK, "epochs=200", "tracking=none", "checkpoint.every=null")
    done = commands.process(tmp_path, "-c", LIMITED, *command, program=(sys.executable,))
    (run,) = commands.runs(tmp_path)
    assert (done.status, done.err) == (
        1,
        f"recipe: output_dir: {run}: File too large; what was recorded before is whole; make room, "
        f"then python -m recipe resume {run.name}\n",
    )
    assert commands.read_json(run / "run.json")["status"] == "FAILED"
    assert "File too large" in (run / "error.txt").read_text()
    events = commands.read_lines(run / "events.jsonl")
    assert (events[-1]["kind"], events[-1]["status"]) == ("end", "FAILED")
    points = commands.read_lines(run / "metrics.jsonl")
    assert 39_000 < (run / "metrics.jsonl").stat().st_size <= 40_000
    assert [line["step"] for line in points] == sorted(line["step"] for line in points)


def mounted(folder: Path) -> bool:
    """Whether a small file system could be put at `folder`."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)],
        capture_output=True, check=False,
    )  # fmt: skip
    return done.returncode == 0


def test_a_full_disk_ends_the_run_with_the_reason_and_a_whole_record(tmp_path: Path) -> None:
    disk = tmp_path / "outputs"
    if not mounted(disk):
        pytest.skip("no file system can be mounted here")
    try:
        started = commands.start(tmp_path, *commands.QUICK, "epochs=2000", "checkpoint.every=null")
        while started.poll() is None and not list(disk.glob("runs/*/model.safetensors")):
            time.sleep(0.05)
        with open(disk / "filler", "wb", buffering=0) as file:
            while file.write(bytes(4096)) == 4096:
                pass
    except OSError:
        pass
    try:
        _, err = started.communicate(timeout=60)
        (run,) = commands.runs(tmp_path)
        assert (started.returncode, err) == (
            1,
            f"recipe: output_dir: {run}: No space left on device; what was recorded before is "
            f"whole; make room, then python -m recipe resume {run.name}\n",
        )
        assert commands.read_json(run / "run.json")["status"] == "FAILED"
        assert commands.read_lines(run / "events.jsonl")[-1]["status"] == "FAILED"
        assert commands.read_lines(run / "metrics.jsonl")[-1]["step"] > 1
        (disk / "filler").unlink()
        assert commands.here(tmp_path, "sync").status == 0
        run_id = str(runs.read(run, "run").mlflow_run_id)
        assert client(tmp_path).get_run(run_id).info.status == "FAILED"
        assert servers.points(client(tmp_path), run_id) == servers.journal(run)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
