"""`resume` with overrides: a run of its own that goes on from where another one stands."""

from __future__ import annotations

import shutil
from pathlib import Path

import commands
import pytest
from run_equality import alike
from stopped_runs import QUIET, stopped

TRUST = "trust=[parts]"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A run that was stopped in its fifth step of nine."""
    return stopped(tmp_path, *QUIET)


def resumed(source: Path, *overrides: str) -> commands.Result:
    return commands.run(source.parent.parent.parent, "resume", source.name, TRUST, *overrides)


def test_branching_keeps_the_source_run_and_reports_carried_state(source: Path) -> None:
    before = {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()}
    done = resumed(source, "epochs=4", "optimizer.lr=0.01")
    assert done.status == 0, done.err
    branch = commands.run_dirs(source.parent.parent.parent)[-1]
    assert before == {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()}
    told = (branch / "carried.txt").read_text()
    assert told in done.out
    assert told.startswith(f"Starts from {source.name} after step 5\n  carried over: position\n")
    assert "  new: scheduler\n" in told
    steps = [line["step"] for line in commands.read_lines(branch / "metrics.jsonl")]
    assert min(steps[1:]) == 6 and max(steps) == 12
    assert (branch / "model.safetensors").is_file()


def test_stopped_branch_resumes_by_same_command_or_id(source: Path) -> None:
    folder = source.parent.parent.parent
    whole = ["epochs=4", "augment=flip_crop"]
    assert resumed(source, *whole).status == 0
    undisturbed = commands.run_dirs(folder)[-1]
    (folder / "signals").write_text("2 SIGTERM")
    assert resumed(source, *whole, "again=true").status == 143
    branch = commands.run_dirs(folder)[-1]
    (folder / "signals").write_text("2 SIGTERM")
    assert resumed(source, *whole).status == 143
    assert len(commands.run_dirs(folder)) == 3
    done = commands.run(folder, "resume", branch.name, TRUST)
    assert done.status == 0 and "not as it was" not in done.out, done.out + done.err
    assert len(commands.run_dirs(folder)) == 3
    alike(branch, undisturbed)


def test_branch_resumes_after_its_source_run_is_removed(source: Path) -> None:
    folder = source.parent.parent.parent
    assert resumed(source, "epochs=4").status == 0
    whole = commands.run_dirs(folder)[-1]
    (folder / "signals").write_text("1 SIGINT SIGINT")  # at once, before it has a checkpoint
    assert resumed(source, "epochs=4", "again=true").status == 130
    branch = commands.run_dirs(folder)[-1]
    assert not (branch / "checkpoints").exists()
    shutil.rmtree(source)
    done = commands.run(folder, "resume", branch.name, TRUST)
    assert done.status == 0, done.err
    assert f"Starts from {source.name} after step 5" in done.out
    alike(branch, whole)


def test_repeated_branch_reports_whether_results_agree(source: Path) -> None:
    resumed(source, "epochs=4")
    assert ": bit-identical: " in resumed(source, "epochs=4").out


def test_branch_does_not_inherit_run_name(tmp_path: Path) -> None:
    source = stopped(tmp_path, *QUIET, "name=base")
    resumed(source, "epochs=4")
    assert commands.read_json(commands.run_dirs(tmp_path)[-1] / "run.json")["name"] != "base"


def test_replay_of_branch_is_rejected(source: Path) -> None:
    resumed(source, "epochs=4")
    folder = source.parent.parent.parent
    branch = commands.run_dirs(folder)[-1]
    done = commands.run(folder, "replay", branch.name, TRUST)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"recipe: replay: {branch.name} continued {source.name}, so")


@pytest.mark.parametrize("override", ["tracking=none", "checkpoint.keep=5", "summary=true"])
def test_overrides_without_effect_on_results_resume_the_same_run(
    tmp_path: Path, override: str
) -> None:
    source = stopped(tmp_path, *QUIET)
    done = resumed(source, override)
    assert done.status == 0, done.err
    assert f"Resumes {source.name} after step 5" in done.out
    assert commands.run_dirs(tmp_path) == [source]


@pytest.mark.parametrize(
    ("overrides", "problems"),
    [
        (["name=other"], ["name=other: a resumed run keeps its name; leave it out"]),
        (["again=true"], ["again=true starts a run from scratch, and resume continues it; "]),
        (["epochs=1"], ["epochs is 1, but 1 are already finished; use a larger number"]),
        (["epocs=4"], ["epocs=4: no such key; did you mean epochs?"]),
        (["clip=nrm", "epochs=x"], ["clip=nrm: no such option; did you mean", "epochs must be"]),
    ],
)
def test_invalid_resume_overrides_are_rejected_before_recording(
    source: Path, overrides: list[str], problems: list[str]
) -> None:
    done = resumed(source, *overrides)
    assert (done.status, done.out) == (2, "")
    for line, problem in zip(done.problems, problems, strict=True):
        assert line.startswith(f"recipe: {problem}")
    assert commands.run_dirs(source.parent.parent.parent) == [source]
