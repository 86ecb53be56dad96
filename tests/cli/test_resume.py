"""`recipe resume`: which run, from where, and what it refuses or cautions about."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import commands
import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image
from run_equality import alike, finished, in_mlflow, numbers_alike
from stopped_runs import PARTS, QUIET, SMALL, project, stopped


def info(run: Path) -> dict[str, str]:
    content: dict[str, str] = commands.read_json(run / "run.json")
    return content


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def resumed(folder: Path, *arguments: str) -> commands.Result:
    return commands.run(folder, "resume", *arguments, "trust=[parts]")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    folder = project(tmp_path_factory.mktemp("whole"))
    assert commands.run(folder, *QUIET).status == 0
    return finished(folder)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a run that was stopped after step 5 of 9."""
    folder = tmp_path_factory.mktemp("killed")
    stopped(folder, *QUIET, "name=mine")
    return folder


@pytest.fixture
def again(killed: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(killed, tmp_path / "again")


# by signals


@pytest.mark.parametrize("by", ["SIGINT", "SIGTERM"])
def test_signal_saves_checkpoint_and_resume_gives_identical_results(
    tmp_path: Path, whole: Path, by: str
) -> None:
    run = stopped(tmp_path, *SMALL, by=by)
    assert info(run)["status"] == "KILLED"
    assert checkpoints(run) == ["step-000000003.ckpt", "step-000000005.ckpt"]
    assert in_database(tmp_path, run) == "KILLED"
    done = resumed(tmp_path, run.name)
    assert done.status == 0, done.err
    assert f"Resumes {run.name} after step 5" in done.out
    alike(run, whole)
    in_mlflow(run)
    assert in_database(tmp_path, run) == "FINISHED"


def in_database(folder: Path, run: Path) -> str:
    client = MlflowClient(f"sqlite:///{folder}/outputs/mlflow.db")
    return str(client.get_run(commands.read_json(run / "sent.json")["mlflow_run_id"]).info.status)


def test_second_signal_stops_run_immediately(tmp_path: Path, whole: Path) -> None:
    run = stopped(tmp_path, *QUIET, by="SIGTERM SIGINT")
    assert checkpoints(run) == ["step-000000003.ckpt"]
    assert info(run)["status"] == "KILLED"
    assert resumed(tmp_path, run.name).status == 0
    alike(run, whole)


def test_resume_before_evaluation_gives_identical_results(tmp_path: Path, whole: Path) -> None:
    run = stopped(tmp_path, *QUIET, at=3)
    assert resumed(tmp_path, run.name).status == 0
    alike(run, whole)


def test_run_interrupted_after_last_step_still_finishes(tmp_path: Path, whole: Path) -> None:
    project(tmp_path)
    (tmp_path / "signals").write_text("9 SIGINT")
    done = commands.run(tmp_path, *QUIET)
    assert done.status == 0
    reached = "Ctrl-C came after the last step, and the run has reached its end"
    assert reached in done.out.splitlines()
    (run,) = commands.run_dirs(tmp_path)
    alike(run, whole)


# which run


@pytest.mark.parametrize("wanted", ["id", "its beginning", "name"])
def test_resume_finds_run_by_id_prefix_or_name(again: Path, whole: Path, wanted: str) -> None:
    (run,) = commands.run_dirs(again)
    done = resumed(again, {"id": run.name, "its beginning": run.name[:-2], "name": "mine"}[wanted])
    assert done.status == 0, done.err
    alike(finished(again), whole)


def test_stopped_run_prints_resume_command(tmp_path: Path) -> None:
    project(tmp_path)
    (tmp_path / "signals").write_text("5 SIGINT")
    done = commands.run(tmp_path, *QUIET)
    (run,) = commands.run_dirs(tmp_path)
    assert f"Stopped. Resume with: python -m recipe resume {run.name}" in done.out.splitlines()
    assert done.err == "recipe: interrupted\n"


def test_resume_of_finished_run_is_rejected(again: Path) -> None:
    assert resumed(again, "mine").status == 0
    run, before = finished(again), listing(again)
    done = resumed(again, "mine")
    assert (done.status, done.problems) == (2, [
        f"recipe: resume: {run.name} is finished; to train it further, give more "
        "epochs=<number>"
    ])  # fmt: skip
    assert listing(again) == before


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.integration
def test_resume_of_active_run_is_rejected_and_run_continues(tmp_path: Path) -> None:
    arguments = (*commands.CPU, "data.train_size=200", "data.batch_size=2", "model.widths=[4,8]",
                 "epochs=1000", "tracking=none")  # fmt: skip
    going = commands.start(tmp_path, *arguments)
    try:
        wait(lambda: lines(tmp_path) > 5, going)
        (run,) = commands.run_dirs(tmp_path)
        done = commands.run(tmp_path, "resume", run.name)
        assert (done.status, done.problems) == (2, [
            f"recipe: run: {run.name} is being run by process {going.pid}; wait for its end"
        ])  # fmt: skip
        before = lines(tmp_path)
        wait(lambda: lines(tmp_path) > before, going)
    finally:
        going.kill()
        going.communicate()


def lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("metrics.jsonl"))


def wait(until: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not until():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def test_resume_of_run_killed_before_start_is_rejected(again: Path) -> None:
    (run,) = commands.run_dirs(again)
    (run / "spec.yaml").unlink()
    done = resumed(again, run.name)
    assert done.status == 2
    assert done.problems == [
        f"recipe: resume: {run.name} was stopped before it began; start it again"
    ]


def test_resume_rejects_damaged_spec(again: Path) -> None:
    (run,) = commands.run_dirs(again)
    (run / "spec.yaml").write_text((run / "spec.yaml").read_text()[:300])
    before = listing(again)
    done = resumed(again, run.name)
    assert done.status == 2 and done.problems
    assert all(str(run / "spec.yaml") in line for line in done.problems)
    assert listing(again) == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl"])
def test_damaged_journal_prevents_resume_and_command_starts_new_run(again: Path, name: str) -> None:
    (run,) = commands.run_dirs(again)
    (run / name).write_text("{]\n" + (run / name).read_text())
    done = commands.run(again, "resume", run.name, "trust=[parts]")
    told = (
        f"the journals of {run.name} are damaged ({run / name}: line 1 is damaged), so it can't be "
        "resumed; its command starts a new run"
    )
    assert (done.status, done.problems) == (2, [f"recipe: run: {told}"])
    done = commands.run(again, *QUIET, "name=mine")
    assert done.status == 0 and f"Caution {told}" in done.out.splitlines()
    assert len(commands.run_dirs(again)) == 2


# from where


def test_damaged_checkpoint_is_reported_and_previous_one_resumed(again: Path, whole: Path) -> None:
    (run,) = commands.run_dirs(again)
    newest = run / "checkpoints" / "step-000000005.ckpt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1  # one bit of it, which torch doesn't notice
    newest.write_bytes(content)
    done = resumed(again, run.name)
    assert done.status == 0
    assert f"Resumes {run.name} after step 3" in done.out
    assert f"Caution {newest.name} can't be read: " in done.out
    alike(finished(again), whole)


@pytest.mark.parametrize("content", [b"", b"PK", b"x" * 1000])
def test_run_with_only_damaged_checkpoints_restarts_from_scratch(
    again: Path, whole: Path, content: bytes
) -> None:
    (run,) = commands.run_dirs(again)
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(content)
    done = resumed(again, run.name)
    assert f"Resumes {run.name} from scratch" in done.out
    assert done.out.count("Caution step-0000000") == 2
    alike(finished(again), whole)


def test_damaged_checkpoint_does_not_displace_intact_one(tmp_path: Path, whole: Path) -> None:
    run = stopped(tmp_path, *QUIET, "checkpoint.keep=1", "checkpoint.per=step", at=8)
    assert checkpoints(run) == ["step-000000008.ckpt"]
    (run / "checkpoints" / "step-000000008.ckpt").write_bytes(b"")
    (tmp_path / "signals").write_text("2 SIGINT")
    assert resumed(tmp_path, run.name).status == 130
    assert checkpoints(run) == ["step-000000002.ckpt"]
    done = resumed(tmp_path, run.name)
    assert f"Resumes {run.name} after step 2" in done.out
    numbers_alike(finished(tmp_path), whole)


def test_partial_checkpoint_of_a_killed_process_is_removed(again: Path, whole: Path) -> None:
    (run,) = commands.run_dirs(again)
    stray = run / "checkpoints" / ".step-000000007.ckpt.tmp"
    stray.write_bytes(b"half of it")
    assert resumed(again, run.name).status == 0
    assert not stray.exists()
    alike(finished(again), whole)


@pytest.mark.long
def test_repeated_stop_and_resume_gives_identical_results(tmp_path: Path, whole: Path) -> None:
    run = stopped(tmp_path, *QUIET, at=1)
    for at in (1, 2, 3, 1):  # counted anew in each
        (tmp_path / "signals").write_text(f"{at} SIGINT")
        assert resumed(tmp_path, run.name).status == 130
    assert resumed(tmp_path, run.name).status == 0
    alike(finished(tmp_path), whole)


# which checkpoints there are


EVERY = "checkpoint.per=step checkpoint.keep=3 checkpoint.keep_finished=3"


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ([], [9]),
        (["checkpoint.keep_finished=0"], []),
        (["checkpoint.keep_finished=9"], [6, 9]),
        (["checkpoint.keep=1", "checkpoint.keep_finished=9"], [9]),
        (["checkpoint.keep=9", "checkpoint.keep_finished=9"], [3, 6, 9]),
        (["checkpoint.every=2"], [6]),
        ([*EVERY.split(), "checkpoint.every=2"], [4, 6, 8]),
        ([*EVERY.split(), "checkpoint.every=4"], [4, 8]),
        (["checkpoint.every=null"], []),
    ],
)
def test_checkpoints_follow_interval_and_retention_settings(
    tmp_path: Path, settings: list[str], steps: list[int]
) -> None:
    project(tmp_path)
    assert commands.run(tmp_path, *QUIET, *settings).status == 0
    found = finished(tmp_path).glob("checkpoints/*")
    assert sorted(path.name for path in found) == [f"step-{step:09}.ckpt" for step in steps]


def test_signal_saves_a_checkpoint_even_if_checkpointing_is_off(
    tmp_path: Path, whole: Path
) -> None:
    run = stopped(tmp_path, *QUIET, "checkpoint.every=null")
    assert checkpoints(run) == ["step-000000005.ckpt"]
    assert resumed(tmp_path, run.name).status == 0
    numbers_alike(finished(tmp_path), whole)


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("checkpoint.every=0", "checkpoint.every must be greater than 0, got 0; use 1, the "
                               "default"),
        ("checkpoint.every=1.5", "checkpoint.every must be a whole number, got 1.5; use 1, the "
                                 "default"),
        ("checkpoint.per=minute", "checkpoint.per must be 'epoch' or 'step', got 'minute'; use "
                                  "'epoch', the default"),
        (
            "checkpoint.keep_finished=-1",
            "checkpoint.keep_finished must be greater than or equal to 0, got -1; use 1, the "
            "default",
        ),
        ("checkpoint.keep=0", "checkpoint.keep must be greater than 0, got 0; use 2, the default"),
        ("checkpoint.keep=null", "checkpoint.keep must be a whole number, got null; use 2, the "
                                 "default"),
        ("again=maybe", "again must be true or false, got 'maybe'; use false, the default"),
        ("checkpoint.evry=2", "checkpoint.evry=2: checkpoint has no setting evry; did you mean "
         "every?"),
        ("checkpoint=none", "checkpoint must be a mapping of settings, got 'none'; give "
         "checkpoint.<setting>=<value>"),
    ],
)  # fmt: skip
def test_invalid_settings_are_rejected(tmp_path: Path, setting: str, problem: str) -> None:
    assert commands.rejected(tmp_path, *commands.QUICK, setting) == [problem]


# what isn't as it was


def test_resume_rejects_changed_data(tmp_path: Path) -> None:
    project(tmp_path)
    images, classes = np.arange(20 * 256, dtype=np.uint8).reshape(20, 16, 16), np.arange(20) % 2
    np.savez(tmp_path / "data.npz", x=images, y=classes)
    arguments = [a for a in QUIET if not a.startswith("data")]
    data = ["data=arrays", "data.path=data.npz", "data.val=0.2", "data.batch_size=8"]
    run = stopped(tmp_path, *arguments, *data, at=2)
    images[0, 0, 0] = 99
    np.savez(tmp_path / "data.npz", x=images, y=classes)
    before = listing(tmp_path)
    done = resumed(tmp_path, run.name)
    assert (done.status, done.problems) == (2, [
        f"recipe: resume: the data have changed since {run.name} was trained; restore them, or "
        "start a new run"
    ])  # fmt: skip
    assert listing(tmp_path) == before


def test_run_resumed_with_changed_code_warns_and_is_not_reused(again: Path) -> None:
    (run,) = commands.run_dirs(again)
    (again / "parts.py").write_text(PARTS + "\n# changed\n")
    done = resumed(again, run.name)
    assert done.status == 0
    caution = f"Caution changed since {run.name} started: parts "
    assert any(line.startswith(caution) for line in done.out.splitlines())
    (again / "parts.py").write_text(PARTS)
    swept = commands.sweep(again, "-m", *QUIET, "seed=0")
    assert swept.status == 0
    assert "finished before" not in swept.out


@pytest.mark.integration
@pytest.mark.long
def test_resume_with_other_thread_count_prints_caution(tmp_path: Path) -> None:
    arguments = ("device=cpu", "device.threads=auto", *QUIET[2:])
    project(tmp_path)
    (tmp_path / "signals").write_text("5 SIGINT")
    assert commands.spawn(tmp_path, *arguments).status == 130
    (run,) = commands.run_dirs(tmp_path)
    done = commands.spawn(tmp_path, "resume", run.name, "trust=[parts]", OMP_NUM_THREADS="2")
    assert done.status == 0
    assert f"Caution changed since {run.name} started: device, threads" in done.out


# other places


def test_moved_output_folder_resumes_in_new_location(tmp_path: Path, whole: Path) -> None:
    run = stopped(tmp_path, *SMALL)
    (tmp_path / "outputs").rename(tmp_path / "elsewhere")
    done = resumed(tmp_path, run.name, "output_dir=elsewhere")
    assert done.status == 0, done.err
    moved = tmp_path / "elsewhere" / "runs" / run.name
    alike(moved, whole)
    in_mlflow(moved)
    assert not (tmp_path / "outputs" / "mlflow.db").exists()


def test_run_recorded_under_another_folder_name_resumes_in_place(
    tmp_path: Path, whole: Path
) -> None:
    project(tmp_path)
    (tmp_path / "signals").write_text("5 SIGINT")
    assert commands.run(tmp_path, *SMALL, "output_dir=first").status == 130
    (tmp_path / "first").rename(tmp_path / "outputs")
    (run,) = commands.run_dirs(tmp_path)
    assert resumed(tmp_path, run.name).status == 0
    alike(run, whole)
    in_mlflow(run)
    assert not (tmp_path / "first" / "mlflow.db").exists()


@pytest.mark.integration
@pytest.mark.long
def test_run_resumes_after_mlflow_database_is_removed(tmp_path: Path, whole: Path) -> None:
    run = stopped(tmp_path, *SMALL)
    for file in (tmp_path / "outputs").glob("mlflow.db*"):
        file.unlink()
    done = commands.spawn(tmp_path, "resume", run.name, "trust=[parts]")
    assert done.status == 0, done.err
    alike(run, whole)
    in_mlflow(run)


# processes that read data


def pets(folder: Path) -> Path:
    noise = np.random.default_rng(0)
    for index in range(60):
        path = folder / "pets" / ("cat" if index % 2 else "dog") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 255, (16, 16, 3), np.uint8)).save(path)
    return folder


WORKERS = (
    *commands.CPU, "data=image_folder", "data.path=pets", "data.val=0.2", "data.size=16",
    "data.batch_size=4", "data.workers=2", "model.widths=[4,8]", "model.dropout=0.2",
    "augment=flip_crop", "epochs=3", "tracking=none",
)  # fmt: skip
"""12 steps an epoch."""


def signalled(folder: Path, signum: signal.Signals) -> tuple[int, str]:
    """The exit and the state of a run whose processes all got a signal in its second epoch."""
    going = commands.start(folder, *WORKERS)
    wait(lambda: lines(folder) > 15, going)
    os.killpg(going.pid, signum)
    going.communicate(timeout=60)
    return going.returncode, info(commands.run_dirs(folder)[-1])["status"]


@pytest.mark.integration
@pytest.mark.long
def test_terminal_signal_stops_run_with_workers_in_resumable_state(tmp_path: Path) -> None:
    folders = [pets(tmp_path / name) for name in ("killed", "interrupted", "whole")]
    assert signalled(folders[0], signal.SIGKILL) == (-signal.SIGKILL, "RUNNING")
    assert signalled(folders[1], signal.SIGINT) == (130, "KILLED")
    assert commands.run(folders[2], *WORKERS).status == 0
    for folder in folders[:2]:
        done = commands.run(folder, *WORKERS)
        assert done.status == 0 and "Resumes " in done.out, done.err
        alike(finished(folder), finished(folders[2]))


@pytest.mark.integration
@pytest.mark.long
def test_orphaned_data_workers_do_not_block_resuming(tmp_path: Path) -> None:
    pets(tmp_path)
    going = commands.start(tmp_path, *WORKERS)
    wait(lambda: lines(tmp_path) > 15, going)
    going.kill()  # it alone
    going.wait()
    done = commands.spawn(tmp_path, *WORKERS)
    assert done.status == 0 and "Resumes " in done.out, done.err
    assert info(finished(tmp_path))["status"] == "FINISHED"


def test_resume_warns_about_recomputed_points_with_other_values(
    tmp_path: Path, whole: Path
) -> None:
    run = stopped(tmp_path, *QUIET, "checkpoint.per=step", "checkpoint.every=2")
    (run / "checkpoints" / "step-000000005.ckpt").unlink()  # so that step 5 is computed again
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (index,) = [i for i, line in enumerate(lines) if '"step": 5' in line and "train/loss" in line]
    changed = json.loads(lines[index])
    changed["metrics"]["train/loss"] += 1
    lines[index] = json.dumps(changed)
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    done = resumed(tmp_path, run.name)
    assert done.status == 0, done.err
    assert "Resumes " + run.name + " after step 4" in done.out
    assert "Caution 1 point recorded before the run was resumed had other values" in done.out
    numbers_alike(run, whole)
