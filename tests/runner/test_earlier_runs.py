"""The same command again: what became of the earlier runs decides what it does."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import commands
import pytest
from mlflow.tracking import MlflowClient
from run_equality import alike, in_mlflow
from stopped_runs import QUIET, SMALL, project, stopped
from sweep_records import mlflow_runs, names_and_states, run_folder, sweep_folder


def states(folder: Path) -> list[str]:
    return [commands.read_json(run / "run.json")["status"] for run in commands.run_dirs(folder)]


def test_repeated_finished_run_reports_whether_numbers_agree(tmp_path: Path) -> None:
    project(tmp_path)
    assert commands.run(tmp_path, *QUIET).status == 0
    (first,) = commands.run_dirs(tmp_path)
    done = commands.run(tmp_path, *QUIET)
    assert done.status == 0
    (told,) = [line for line in done.out.splitlines() if line.startswith("Again")]
    assert told.startswith(f"Again   as {first.name}: bit-identical: ")
    assert states(tmp_path) == ["FINISHED", "FINISHED"]


def test_killed_run_is_resumed_by_same_command(tmp_path: Path) -> None:
    run = stopped(tmp_path, *QUIET)
    done = commands.run(tmp_path, *QUIET)
    assert done.status == 0
    assert f"Resumes {run.name} after step 5" in done.out.splitlines()
    assert commands.run_dirs(tmp_path) == [run] and states(tmp_path) == ["FINISHED"]


def test_again_argument_restarts_killed_run_from_scratch(tmp_path: Path) -> None:
    run = stopped(tmp_path, *QUIET)
    done = commands.run(tmp_path, *QUIET, "again=true")
    assert done.status == 0 and "Resumes" not in done.out
    assert commands.run_dirs(tmp_path)[0] == run and states(tmp_path) == ["KILLED", "FINISHED"]


def test_failed_run_is_restarted_from_scratch_by_same_command(tmp_path: Path) -> None:
    project(tmp_path)
    (tmp_path / "signals").write_text("5 error")
    assert commands.run(tmp_path, *QUIET).status == 1
    done = commands.run(tmp_path, *QUIET)
    assert done.status == 0 and "Resumes" not in done.out
    assert states(tmp_path) == ["FAILED", "FINISHED"]


def test_different_spec_does_not_resume_killed_run(tmp_path: Path) -> None:
    stopped(tmp_path, *QUIET)
    assert commands.run(tmp_path, *QUIET, "seed=1").status == 0
    assert states(tmp_path) == ["KILLED", "FINISHED"]


def test_settings_without_effect_on_results_do_not_prevent_resuming(tmp_path: Path) -> None:
    run = stopped(tmp_path, *QUIET)
    other = ("name=other", "checkpoint.every=2", "checkpoint.keep=5", "summary=true")
    done = commands.run(tmp_path, *QUIET, *other)
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
    assert commands.sweep(folder, *SWEEP).status == 0
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
def test_interrupted_sweep_resumes_with_same_command(tmp_path: Path, whole: Path) -> None:
    project(tmp_path)
    (tmp_path / "signals").write_text("5 SIGINT")  # the second run's second step
    done = commands.sweep(tmp_path, *SWEEP)
    assert done.status == 130
    assert names_and_states(tmp_path) == [("seed=0", "FINISHED"), ("seed=1", "KILLED")]
    assert mlflow_runs(tmp_path)[0].info.status == "KILLED"
    first, second = commands.run_dirs(tmp_path)
    done = commands.sweep(tmp_path, *SWEEP)
    assert done.status == 0
    lines = done.out.splitlines()
    assert f"seed=0,1,2,3: 4 runs, resuming {sweep_folder(tmp_path).name}" in lines
    assert any(line.startswith(f"finished before, as {first.name}: ") for line in lines)
    assert [line for line in lines if line.startswith("Resumes")] == [
        f"Resumes {second.name} after step 2"
    ]
    assert states(tmp_path) == ["FINISHED"] * 4
    same_sweep(tmp_path, whole)


def test_repeated_sweep_command_reruns_only_failed_run(tmp_path: Path, whole: Path) -> None:
    project(tmp_path)
    (tmp_path / "signals").write_text("5 error")
    assert commands.sweep(tmp_path, *SWEEP).status == 1
    assert sorted(states(tmp_path)) == ["FAILED", *["FINISHED"] * 3]
    done = commands.sweep(tmp_path, *SWEEP)
    assert done.status == 0 and done.out.count("finished before") == 3
    assert sorted(states(tmp_path)) == ["FAILED", *["FINISHED"] * 4]
    assert results(tmp_path) == results(whole)


def test_repeated_finished_sweep_reuses_all_results(whole: Path) -> None:
    before = commands.run_dirs(whole)
    (first,) = (whole / "outputs" / "sweeps").iterdir()
    done = commands.sweep(whole, *SWEEP)
    assert done.status == 0 and done.out.count("finished before") == 4
    assert commands.run_dirs(whole) == before
    (second,) = set((whole / "outputs" / "sweeps").iterdir()) - {first}
    assert results(whole, second) == results(whole, first)
    for path in second.iterdir():
        path.unlink()
    second.rmdir()


@pytest.mark.long
def test_skipped_sweep_runs_still_list_tricks_without_effect(tmp_path: Path) -> None:
    never = ("clip=norm", "clip.max_norm=1000", "epochs=1", "tracking=none", "seed=0,1")
    arguments = ("-m", *commands.QUICK, *never)
    told: list[list[str]] = []
    for _ in range(2):
        done = commands.sweep(tmp_path, *arguments)
        assert done.status == 0
        rows = [line for line in done.out.splitlines() if line.startswith("seed=")]
        told.append(rows[-2:])
    assert told[0] == told[1]
    assert all(line.rstrip().endswith("clip=norm") for line in told[1])


@pytest.mark.long
def test_again_argument_reruns_complete_sweep(tmp_path: Path) -> None:
    project(tmp_path)
    for count in (2, 4):
        done = commands.sweep(tmp_path, "-m", *QUIET, "epochs=1", "seed=0,1", "again=true")
        assert done.status == 0 and states(tmp_path) == ["FINISHED"] * count


@pytest.mark.parametrize("name", ["jobs.jsonl", "sweep.json"])
def test_sweep_with_truncated_record_file_resumes(tmp_path: Path, name: str) -> None:
    project(tmp_path)
    (tmp_path / "signals").write_text("5 SIGINT")
    arguments = ("-m", *QUIET, "epochs=1", "seed=0,1")
    assert commands.sweep(tmp_path, *arguments).status == 130
    path = sweep_folder(tmp_path) / name
    path.write_bytes(path.read_bytes()[:-20])
    done = commands.sweep(tmp_path, *arguments)
    assert done.status == 0, done.err
    assert states(tmp_path) == ["FINISHED"] * 2


@pytest.mark.integration
@pytest.mark.long
def test_two_concurrent_sweeps_train_each_run_once(tmp_path: Path) -> None:
    arguments = ("-m", *commands.QUICK, "seed=0,1,2,3", "epochs=1")
    both = [commands.start(tmp_path, *arguments) for _ in range(2)]
    outs = [process.communicate(timeout=300)[0] for process in both]
    assert len(commands.run_dirs(tmp_path)) == 4, outs
    assert states(tmp_path) == ["FINISHED"] * 4
    done = commands.sweep(tmp_path, *arguments)
    assert done.status == 0 and len(commands.run_dirs(tmp_path)) == 4
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    found = client.search_runs(["1"])
    assert "RUNNING" not in {run.info.status for run in found}
    children = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    assert sorted(str(run.info.run_name) for run in children) == [f"seed={n}" for n in range(4)]


@pytest.mark.integration
def test_killed_sweep_resumes_with_same_command(tmp_path: Path, whole: Path) -> None:
    project(tmp_path)
    (tmp_path / "signals").write_text("8 SIGKILL")  # in the third run
    assert commands.spawn(tmp_path, *SWEEP, "hydra/launcher=basic").status == -signal.SIGKILL
    assert states(tmp_path) == ["FINISHED", "FINISHED", "RUNNING"]
    done = commands.sweep(tmp_path, *SWEEP)
    assert done.status == 0, done.err
    assert states(tmp_path) == ["FINISHED"] * 4
    same_sweep(tmp_path, whole)


@pytest.mark.integration
@pytest.mark.long
def test_sweep_killed_three_times_gives_identical_results(tmp_path: Path) -> None:
    others = (text for text in SMALL if not text.startswith("average="))
    arguments = ("-m", *others, "seed=range(6)", "average=none,ema")
    for name in ("whole", "killed"):
        project(tmp_path / name)
    assert commands.spawn(tmp_path / "whole", *arguments).status == 0
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
    done = commands.spawn(folder, *arguments)
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
