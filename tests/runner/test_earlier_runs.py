"""The same command again: what became of the earlier runs decides what it does."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import commands
import pytest
from mlflow.tracking import MlflowClient
from same_runs import alike, in_mlflow
from stopped_runs import QUIET, SMALL, project, stopped
from sweep_records import mlflow_runs, names_and_states, run_folder, sweep_folder


def states(folder: Path) -> list[str]:
    return [commands.read_json(run / "run.json")["status"] for run in commands.runs(folder)]


def test_after_a_finished_run_it_trains_again_and_tells_whether_the_numbers_agree(
    tmp_path: Path,
) -> None:
    project(tmp_path)
    assert commands.here(tmp_path, *QUIET).status == 0
    (first,) = commands.runs(tmp_path)
    done = commands.here(tmp_path, *QUIET)
    assert done.status == 0
    (told,) = [line for line in done.out.splitlines() if line.startswith("Again")]
    assert told.startswith(f"Again   as {first.name}: bit-identical: ")
    assert states(tmp_path) == ["FINISHED", "FINISHED"]


def test_after_a_killed_run_it_goes_on_with_that(tmp_path: Path) -> None:
    run = stopped(tmp_path, *QUIET)
    done = commands.here(tmp_path, *QUIET)
    assert done.status == 0
    assert f"Resumes {run.name} after step 5" in done.out.splitlines()
    assert commands.runs(tmp_path) == [run] and states(tmp_path) == ["FINISHED"]


def test_after_a_killed_run_again_starts_from_the_beginning(tmp_path: Path) -> None:
    run = stopped(tmp_path, *QUIET)
    done = commands.here(tmp_path, *QUIET, "again=true")
    assert done.status == 0 and "Resumes" not in done.out
    assert commands.runs(tmp_path)[0] == run and states(tmp_path) == ["KILLED", "FINISHED"]


def test_after_a_failed_run_it_starts_from_the_beginning(tmp_path: Path) -> None:
    project(tmp_path)
    (tmp_path / "signals").write_text("5 error")
    assert commands.here(tmp_path, *QUIET).status == 1
    done = commands.here(tmp_path, *QUIET)
    assert done.status == 0 and "Resumes" not in done.out
    assert states(tmp_path) == ["FAILED", "FINISHED"]


def test_another_spec_leaves_a_killed_run_alone(tmp_path: Path) -> None:
    stopped(tmp_path, *QUIET)
    assert commands.here(tmp_path, *QUIET, "seed=1").status == 0
    assert states(tmp_path) == ["KILLED", "FINISHED"]


def test_what_can_not_change_the_numbers_does_not_keep_it_from_going_on(tmp_path: Path) -> None:
    run = stopped(tmp_path, *QUIET)
    other = ("name=other", "checkpoint.every=2", "checkpoint.keep=5", "summary=true")
    done = commands.here(tmp_path, *QUIET, *other)
    assert f"Resumes {run.name} after step 5" in done.out.splitlines()


# sweeps


SWEEP = ("-m", *SMALL, "seed=0,1,2,3", "epochs=1")
"""Four runs of three steps."""


def results(folder: Path, sweep: Path | None = None) -> list[tuple[str, str, float | None]]:
    """Of every job, as it ended last."""
    lines = commands.read_lines((sweep or sweep_folder(folder)) / "jobs.jsonl")
    ended = {line["number"]: (line["name"], line["status"], line["accuracy"]) for line in lines}
    return [ended[number] for number in sorted(ended)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that nobody stopped."""
    folder = project(tmp_path_factory.mktemp("whole"))
    assert commands.in_turn(folder, *SWEEP).status == 0
    return folder


def same_sweep(folder: Path, whole: Path) -> None:
    """Four finished runs, none twice, under one parent in MLflow; each as in the other sweep."""
    parent, children = mlflow_runs(folder)
    assert parent.info.status == "FINISHED"
    assert sorted(children) == [f"seed={seed}" for seed in range(4)]
    assert {child.info.status for child in children.values()} == {"FINISHED"}
    assert results(folder) == results(whole)
    for name in children:
        alike(run_folder(folder, name), run_folder(whole, name))


@pytest.mark.long
def test_a_sweep_that_is_interrupted_is_continued_by_the_same_command(
    tmp_path: Path, whole: Path
) -> None:
    project(tmp_path)
    (tmp_path / "signals").write_text("5 SIGINT")  # the second run's second step
    done = commands.in_turn(tmp_path, *SWEEP)
    assert done.status == 130
    assert names_and_states(tmp_path) == [("seed=0", "FINISHED"), ("seed=1", "KILLED")]
    assert mlflow_runs(tmp_path)[0].info.status == "KILLED"
    first, second = commands.runs(tmp_path)
    done = commands.in_turn(tmp_path, *SWEEP)
    assert done.status == 0
    lines = done.out.splitlines()
    assert f"seed=0,1,2,3: 4 runs, resuming {sweep_folder(tmp_path).name}" in lines
    assert any(line.startswith(f"finished before, as {first.name}: ") for line in lines)
    assert [line for line in lines if line.startswith("Resumes")] == [
        f"Resumes {second.name} after step 2"
    ]
    assert states(tmp_path) == ["FINISHED"] * 4
    same_sweep(tmp_path, whole)


def test_a_run_of_a_sweep_that_failed_is_run_again_and_only_that(
    tmp_path: Path, whole: Path
) -> None:
    project(tmp_path)
    (tmp_path / "signals").write_text("5 error")
    assert commands.in_turn(tmp_path, *SWEEP).status == 1
    assert sorted(states(tmp_path)) == ["FAILED", *["FINISHED"] * 3]
    done = commands.in_turn(tmp_path, *SWEEP)
    assert done.status == 0 and done.out.count("finished before") == 3
    assert sorted(states(tmp_path)) == ["FAILED", *["FINISHED"] * 4]
    assert results(tmp_path) == results(whole)


def test_a_sweep_that_finished_trains_nothing_again_and_has_the_same_results(whole: Path) -> None:
    before = commands.runs(whole)
    (first,) = (whole / "outputs" / "sweeps").iterdir()
    done = commands.in_turn(whole, *SWEEP)
    assert done.status == 0 and done.out.count("finished before") == 4
    assert commands.runs(whole) == before
    (second,) = set((whole / "outputs" / "sweeps").iterdir()) - {first}
    assert results(whole, second) == results(whole, first)
    for path in second.iterdir():
        path.unlink()
    second.rmdir()


@pytest.mark.long
def test_a_trick_without_effect_is_told_of_a_run_that_is_skipped_as_well(tmp_path: Path) -> None:
    never = ("clip=norm", "clip.max_norm=1000", "epochs=1", "tracking=none", "seed=0,1")
    arguments = ("-m", *commands.QUICK, *never)
    told: list[list[str]] = []
    for _ in range(2):
        done = commands.in_turn(tmp_path, *arguments)
        assert done.status == 0
        rows = [line for line in done.out.splitlines() if line.startswith("seed=")]
        told.append(rows[-2:])
    assert told[0] == told[1]
    assert all(line.rstrip().endswith("clip=norm") for line in told[1])


@pytest.mark.long
def test_again_runs_a_whole_sweep_again(tmp_path: Path) -> None:
    project(tmp_path)
    for count in (2, 4):
        done = commands.in_turn(tmp_path, "-m", *QUIET, "epochs=1", "seed=0,1", "again=true")
        assert done.status == 0 and states(tmp_path) == ["FINISHED"] * count


@pytest.mark.parametrize("name", ["jobs.jsonl", "sweep.json"])
def test_a_sweep_whose_file_was_cut_off_goes_on(tmp_path: Path, name: str) -> None:
    project(tmp_path)
    (tmp_path / "signals").write_text("5 SIGINT")
    arguments = ("-m", *QUIET, "epochs=1", "seed=0,1")
    assert commands.in_turn(tmp_path, *arguments).status == 130
    path = sweep_folder(tmp_path) / name
    path.write_bytes(path.read_bytes()[:-20])
    done = commands.in_turn(tmp_path, *arguments)
    assert done.status == 0, done.err
    assert states(tmp_path) == ["FINISHED"] * 2


@pytest.mark.integration
@pytest.mark.long
def test_two_sweeps_at_the_same_moment_train_each_run_once(tmp_path: Path) -> None:
    arguments = ("-m", *commands.QUICK, "seed=0,1,2,3", "epochs=1")
    both = [commands.start(tmp_path, *arguments) for _ in range(2)]
    outs = [process.communicate(timeout=300)[0] for process in both]
    assert len(commands.runs(tmp_path)) == 4, outs
    assert states(tmp_path) == ["FINISHED"] * 4
    done = commands.in_turn(tmp_path, *arguments)
    assert done.status == 0 and len(commands.runs(tmp_path)) == 4
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    found = client.search_runs(["1"])
    assert "RUNNING" not in {run.info.status for run in found}
    children = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    assert sorted(str(run.info.run_name) for run in children) == [f"seed={n}" for n in range(4)]


@pytest.mark.integration
def test_a_sweep_that_is_killed_is_continued_by_the_same_command(
    tmp_path: Path, whole: Path
) -> None:
    project(tmp_path)
    (tmp_path / "signals").write_text("8 SIGKILL")  # in the third run
    assert commands.process(tmp_path, *SWEEP, "hydra/launcher=basic").status == -signal.SIGKILL
    assert states(tmp_path) == ["FINISHED", "FINISHED", "RUNNING"]
    done = commands.in_turn(tmp_path, *SWEEP)
    assert done.status == 0, done.err
    assert states(tmp_path) == ["FINISHED"] * 4
    same_sweep(tmp_path, whole)


@pytest.mark.integration
@pytest.mark.long
def test_a_sweep_of_twelve_that_is_killed_three_times(tmp_path: Path) -> None:
    others = (text for text in SMALL if not text.startswith("average="))
    arguments = ("-m", *others, "seed=range(6)", "average=none,ema")
    for name in ("whole", "killed"):
        project(tmp_path / name)
    assert commands.process(tmp_path / "whole", *arguments).status == 0
    folder, draw = tmp_path / "killed", random.Random(0)
    points = lines(tmp_path / "whole") // 12
    for kill in range(3):
        started = commands.start(folder, *arguments)
        # somewhere in the next four runs
        enough = points * 4 * kill + draw.randrange(points, 4 * points)
        while started.poll() is None and lines(folder) < enough:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 1))
        assert started.poll() is None, started.communicate()
        started.kill()
        started.communicate()
        print("killed with", states(folder), flush=True)
    done = commands.process(folder, *arguments)
    assert done.status == 0, done.err
    assert states(folder) == ["FINISHED"] * 12
    parent, children = mlflow_runs(folder)
    assert [parent.info.status, *(child.info.status for child in children.values())] == [
        "FINISHED"
    ] * 13
    assert results(folder) == results(tmp_path / "whole")
    for name in children:
        run = run_folder(folder, name)
        alike(run, run_folder(tmp_path / "whole", name))
        in_mlflow(run)


def lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("metrics.jsonl"))
