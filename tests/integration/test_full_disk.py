"""A disk that is full: the run ends with the reason, and what was recorded stays whole."""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import commands
import pytest
import servers
from mlflow.tracking import MlflowClient

from recipe.store import run_dirs


def client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder}/outputs/mlflow.db")


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
from recipe.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.long
def test_file_size_limit_ends_run_with_reason(tmp_path: Path) -> None:
    command = (*commands.QUICK, "epochs=200", "tracking=none", "checkpoint.every=null")
    done = commands.spawn(tmp_path, "-c", LIMITED, *command, program=(sys.executable,))
    (run,) = commands.run_dirs(tmp_path)
    assert (done.status, done.err) == (
        1,
        f"recipe: output_dir: {run}: File too large; what was recorded before is complete; make "
        "room, "
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


def test_full_disk_ends_run_with_reason_and_intact_record(tmp_path: Path) -> None:
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
        (run,) = commands.run_dirs(tmp_path)
        assert (started.returncode, err) == (
            1,
            f"recipe: output_dir: {run}: No space left on device; what was recorded before is "
            f"complete; make room, then python -m recipe resume {run.name}\n",
        )
        assert commands.read_json(run / "run.json")["status"] == "FAILED"
        assert commands.read_lines(run / "events.jsonl")[-1]["status"] == "FAILED"
        assert commands.read_lines(run / "metrics.jsonl")[-1]["step"] > 1
        (disk / "filler").unlink()
        assert commands.run(tmp_path, "sync").status == 0
        run_id = str(run_dirs.read_info(run, "run").mlflow_run_id)
        assert client(tmp_path).get_run(run_id).info.status == "FAILED"
        assert servers.points(client(tmp_path), run_id) == servers.journal(run)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recorded run."""
    folder = tmp_path_factory.mktemp("trained")
    assert commands.run(folder, *commands.QUICK, "tracking=none").status == 0
    return folder


WRITING = {
    "sweep": ("-m", *commands.QUICK, "tracking=none", "seed=1,2", "hydra/launcher=basic"),
    "ablation": ("ablate", *commands.QUICK, "tracking=none", "clip=norm", "yes=true"),
    "search": ("search", *commands.QUICK, "tracking=none", "optimizer.lr=0.1,0.2", "yes=true"),
    "comparison": ("compare", "all"),
    "range test": ("find-lr", *commands.QUICK, "steps=10"),
    "prediction": ("predict", "run={run}", "input=image.png", "--output", "found.csv"),
    "run": (*commands.QUICK, "tracking=none", "seed=1"),
    "continuation": ("resume", "{run}", "epochs=3"),
}


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """No file can be written in the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "arguments", [pytest.param(WRITING[name], id=name) for name in WRITING if name != "range test"]
)
def test_full_disk_gives_one_line_error_for_every_verb(
    tmp_path: Path, trained: Path, arguments: tuple[str, ...]
) -> None:
    shutil.copytree(trained / "outputs", tmp_path / "outputs")
    (run,) = commands.run_dirs(tmp_path)
    shutil.copy(run / "lr.png", tmp_path / "image.png")
    with no_room():
        done = commands.run(tmp_path, *(text.format(run=run.name) for text in arguments))
    (line,) = done.problems
    assert done.status == 1 and line.startswith("recipe: ")
    assert "File too large; make room, then start it again" in line


@pytest.mark.parametrize(
    ("name", "verb"),
    [("sweeps", "sweep"), ("reports", "comparison"), ("reports", "range test"), ("runs", "run")],
)
def test_file_in_place_of_folder_gives_one_line_error_for_every_verb(
    tmp_path: Path, trained: Path, name: str, verb: str
) -> None:
    shutil.copytree(trained / "outputs", tmp_path / "outputs")
    shutil.rmtree(tmp_path / "outputs" / name, ignore_errors=True)
    (tmp_path / "outputs" / name).touch()
    done = commands.run(tmp_path, *WRITING[verb])
    assert done.status != 0 and len(done.problems) == 1
    assert str(tmp_path / "outputs" / name) in done.err
    for reading in ("status", "sync"):
        assert commands.run(tmp_path, reading).problems == []
