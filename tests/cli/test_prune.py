"""What a run that has ended keeps on disk, and `prune`, which removes the rest."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import commands
import pytest
from run_equality import alike
from stopped_runs import QUIET, stopped

from recipe.config.spec import RunSpec
from recipe.sweep.preflight import measure_run_size

SETTINGS = (*commands.QUICK, "tracking=none", "checkpoint.keep_finished=2")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that finished, with both of its checkpoints, and one that was killed."""
    home = tmp_path_factory.mktemp("recorded")
    assert commands.run(home, *SETTINGS, "name=done").status == 0
    (run,) = commands.run_dirs(home)
    killed = shutil.copytree(run, run.parent / f"{run.name[:-4]}ffff")
    for name in ("run.json", "events.jsonl"):
        said = (killed / name).read_text().replace(run.name, killed.name)
        (killed / name).write_text(said.replace("FINISHED", "KILLED").replace("done", "stopped"))
    return home


@pytest.fixture
def home(recorded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(recorded, tmp_path / "home")


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


BOTH = ["step-000000002.ckpt", "step-000000004.ckpt"]


def test_prune_lists_checkpoints_and_removes_them_on_confirmation(home: Path) -> None:
    finished, killed = commands.run_dirs(home)
    size = (finished / "checkpoints" / BOTH[0]).stat().st_size
    shown = commands.run(home, "prune")
    assert shown.status == 0 and checkpoints(finished) == BOTH
    assert re.search(
        rf"^{finished.name} +done +FINISHED +1 +{size / 1024:.1f} KiB$", shown.out, re.MULTILINE
    )
    last = (
        f"1 file of 1 run, {size / 1024:.1f} KiB; nothing is removed yet, "
        "python -m recipe prune yes=true removes them"
    )
    assert shown.out.splitlines()[-1] == last
    before = {path.name for path in finished.iterdir()}
    done = commands.run(home, "prune", "yes=true")
    assert done.out.splitlines()[-1] == f"Removed 1 file of 1 run, {size / 1024:.1f} KiB"
    assert checkpoints(finished) == BOTH[1:] and checkpoints(killed) == BOTH
    assert {path.name for path in finished.iterdir()} == before
    nothing = "No finished run has a checkpoint that it no longer needs\n"
    assert commands.run(home, "prune").out == nothing
    assert commands.run(home, "prune", "all").out == nothing
    (line,) = commands.run(home, "prune", "bogus=1").problems
    assert line.endswith("; the settings are keep, yes, output_dir")


def test_pruned_run_can_be_extended_unless_no_checkpoint_is_kept(home: Path) -> None:
    finished, _ = commands.run_dirs(home)
    assert commands.run(home, "prune", "done", "yes=true").status == 0
    done = commands.run(home, "resume", "done", "epochs=3")
    assert done.status == 0 and f"Starts from {finished.name} after step 4" in done.out
    assert commands.run(home, "prune", finished.name, "keep=0", "yes=true").status == 0
    refused = commands.run(home, "resume", "done", "epochs=4")
    assert refused.status == 2
    assert refused.err.startswith(
        f"recipe: resume: {finished.name} has no checkpoint to resume from (checkpoint.every, "
        "checkpoint.keep_finished and recipe prune keep=0 decide what is kept)"
    )
    for verb in (["diff", finished.name, finished.name], ["replay", finished.name]):
        done = commands.run(home, *verb)
        assert done.status == 0, done.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nothing"], "prune: no run or sweep 'nothing' is recorded in "),
        (["bogus=1"], "prune: bogus=1: no such setting, and no run or sweep of that name is "),
        (["checkpoint.keep_finished=0"], "prune: checkpoint.keep_finished=0: no such setting, and"),
        (["keep=-1"], "prune: keep must be 0 or more, got -1"),
        (["keep=x"], "prune: keep must be a whole number, got 'x'"),
        (["--yes", "1"], "prune: yes must be true or false, got 1"),
    ],
)
def test_invalid_prune_arguments_are_rejected(
    home: Path, arguments: list[str], problem: str
) -> None:
    done = commands.run(home, "prune", *arguments, *["yes=true"] * ("--yes" not in arguments))
    assert done.status == 2 and done.err.startswith(f"recipe: {problem}")
    assert all(checkpoints(run) == BOTH for run in commands.run_dirs(home))


def test_finished_branch_keeps_empty_placeholder_of_source_checkpoint(tmp_path: Path) -> None:
    source = stopped(tmp_path, *QUIET)
    before = checkpoints(source)
    assert commands.run(tmp_path, "resume", source.name, "trust=[parts]", "epochs=4").status == 0
    branch = commands.run_dirs(tmp_path)[-1]
    (kept,) = branch.glob("came_from/*/checkpoints/*.ckpt")
    assert kept.stat().st_size == 0 and checkpoints(source) == before
    shutil.rmtree(source)
    longer = ("resume", branch.name, "trust=[parts]", "epochs=5")
    assert commands.run(tmp_path, *longer).status == 0
    done = commands.run(tmp_path, "replay", branch.name, "trust=[parts]")
    assert done.status == 2 and f"continued {source.name}" in done.err
    (tmp_path / "signals").write_text("2 SIGTERM")
    assert commands.run(tmp_path, *longer, "again=true").status == 143
    again = commands.run_dirs(tmp_path)[-1]
    assert commands.run(tmp_path, "resume", again.name, "trust=[parts]").status == 0
    alike(again, commands.run_dirs(tmp_path)[-2])


@pytest.mark.parametrize("changes", [["optimizer=adam"], ["average=ema", "freeze=vgg_first2"]])
def test_checkpoint_size_is_estimated_before_the_first_run(
    tmp_path: Path, changes: list[str]
) -> None:
    assert commands.run(tmp_path, *SETTINGS, *changes).status == 0
    (run,) = commands.run_dirs(tmp_path)
    need = measure_run_size(RunSpec.from_file(run / "spec.yaml", []))
    assert need is not None
    size = (run / "checkpoints" / BOTH[1]).stat().st_size
    assert 0.8 * size < need.checkpoint_bytes < 1.1 * size
    assert need.weights_bytes == pytest.approx((run / "model.safetensors").stat().st_size, rel=0.5)
