"""`resume` with overrides: a run of its own that goes on from where another one stands."""

from __future__ import annotations

import shutil
from pathlib import Path

import commands
import pytest
from same_runs import alike
from stopped_runs import QUIET, stopped

TRUST = "trust=[parts]"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A run that was stopped in its fifth step of nine."""
    return stopped(tmp_path, *QUIET)


def resumed(source: Path, *overrides: str) -> commands.Done:
    return commands.here(source.parent.parent.parent, "resume", source.name, TRUST, *overrides)


def test_the_run_it_came_from_stays_as_it_was_and_what_is_carried_over_is_told(
    source: Path,
) -> None:
    before = {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()}
    done = resumed(source, "epochs=4", "optimizer.lr=0.01")
    assert done.status == 0, done.err
    branch = commands.runs(source.parent.parent.parent)[-1]
    assert before == {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()}
    told = (branch / "carried.txt").read_text()
    assert told in done.out
    assert told.startswith(f"Starts from {source.name} after step 5\n  carried over: position\n")
    assert "  new: scheduler\n" in told
    steps = [line["step"] for line in commands.read_lines(branch / "metrics.jsonl")]
    assert min(steps[1:]) == 6 and max(steps) == 12
    assert (branch / "model.safetensors").is_file()


def test_a_branch_that_is_stopped_goes_on_by_the_same_command_or_its_id(source: Path) -> None:
    folder = source.parent.parent.parent
    whole = ["epochs=4", "augment=flip_crop"]
    assert resumed(source, *whole).status == 0
    undisturbed = commands.runs(folder)[-1]
    (folder / "signals").write_text("2 SIGTERM")
    assert resumed(source, *whole, "again=true").status == 143
    branch = commands.runs(folder)[-1]
    (folder / "signals").write_text("2 SIGTERM")
    assert resumed(source, *whole).status == 143
    assert len(commands.runs(folder)) == 3
    done = commands.here(folder, "resume", branch.name, TRUST)
    assert done.status == 0 and "not as it was" not in done.out, done.out + done.err
    assert len(commands.runs(folder)) == 3
    alike(branch, undisturbed)


def test_a_branch_outlives_the_run_that_it_came_from(source: Path) -> None:
    folder = source.parent.parent.parent
    assert resumed(source, "epochs=4").status == 0
    whole = commands.runs(folder)[-1]
    (folder / "signals").write_text("1 SIGINT SIGINT")  # at once, before it has a checkpoint
    assert resumed(source, "epochs=4", "again=true").status == 130
    branch = commands.runs(folder)[-1]
    assert not (branch / "checkpoints").exists()
    shutil.rmtree(source)
    done = commands.here(folder, "resume", branch.name, TRUST)
    assert done.status == 0, done.err
    assert f"Starts from {source.name} after step 5" in done.out
    alike(branch, whole)


def test_the_same_branch_again_says_whether_its_numbers_agree(source: Path) -> None:
    resumed(source, "epochs=4")
    assert ": bit-identical: " in resumed(source, "epochs=4").out


def test_a_branch_has_no_name_but_its_own(tmp_path: Path) -> None:
    source = stopped(tmp_path, *QUIET, "name=base")
    resumed(source, "epochs=4")
    assert commands.read_json(commands.runs(tmp_path)[-1] / "run.json")["name"] != "base"


def test_a_branch_is_not_replayed_from_its_spec_alone(source: Path) -> None:
    resumed(source, "epochs=4")
    folder = source.parent.parent.parent
    branch = commands.runs(folder)[-1]
    done = commands.here(folder, "replay", branch.name, TRUST)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"recipe: replay: {branch.name} continued {source.name}, so")


@pytest.mark.parametrize("override", ["tracking=none", "checkpoint.keep=5", "summary=true"])
def test_what_changes_no_number_makes_no_branch(tmp_path: Path, override: str) -> None:
    source = stopped(tmp_path, *QUIET)
    done = resumed(source, override)
    assert done.status == 0, done.err
    assert f"Resumes {source.name} after step 5" in done.out
    assert commands.runs(tmp_path) == [source]


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
def test_what_can_not_be_obeyed_is_refused_before_anything_is_recorded(
    source: Path, overrides: list[str], problems: list[str]
) -> None:
    done = resumed(source, *overrides)
    assert (done.status, done.out) == (2, "")
    for line, problem in zip(done.problems, problems, strict=True):
        assert line.startswith(f"recipe: {problem}")
    assert commands.runs(source.parent.parent.parent) == [source]
