"""Runs that died: found by their lock, closed here and in MLflow, and taken up again."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import commands
import pytest
import servers
from filelock import FileLock
from mlflow.tracking import MlflowClient
from sent_runs import SentRecorder

from recipe.components.tracking import Tracking
from recipe.components.tracking.local import local
from recipe.errors import SpecError
from recipe.store import run_dirs, stale_records, sweep_record
from recipe.store.upload_state import UploadState


def client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder}/outputs/mlflow.db")


def died(folder: Path, program: str, *, tracked: bool = False) -> Path:
    """The folder of a run whose process was killed after it had recorded what `program` says."""
    uri = f"sqlite:///{folder}/outputs/mlflow.db" if tracked else None
    begins = f"""
import os, signal, time
from pathlib import Path
from recipe.components.tracking import Tracking
from recipe.mlflow_sync.upload_queue import UploadQueue
from recipe.runner.recorder import Recorder
from recipe.store.upload_state import UploadState
outputs = Path("outputs").resolve()
recorder = Recorder(outputs, "short")
uploads = UploadQueue(outputs, Tracking({uri!r}, "recipe"))
uploads.request(recorder.run_dir)
"""
    kills = "\nos.kill(os.getpid(), signal.SIGKILL)\n"
    done = commands.spawn(folder, "-c", begins + program + kills, program=(sys.executable,))
    assert done.status == -signal.SIGKILL, done.err
    return commands.run_dirs(folder)[-1]


POINTS = """
recorder.set_tags({"recipe.steps": "40"})
for step in range(1, 8):
    recorder.log_metrics(step, {"loss": 1 / step, "time/step_s": step / 100})
"""


@pytest.mark.integration
def test_status_closes_killed_run_on_disk_and_in_mlflow(tmp_path: Path) -> None:
    command = (*commands.QUICK, "epochs=500", "name=long one")
    started = commands.start(tmp_path, *command)
    while started.poll() is None and not list(tmp_path.glob("outputs/runs/*/model.safetensors")):
        time.sleep(0.05)
    (run,) = commands.run_dirs(tmp_path)
    while run_dirs.read_info(run, "run").mlflow_run_id is None:  # MLflow heard of it
        time.sleep(0.05)
    alive = commands.run(tmp_path, "status")
    assert " RUNNING  " in alive.out and "1 run: 1 RUNNING" in alive.out
    assert "resume" not in alive.out and " of 1000  " in alive.out
    started.send_signal(signal.SIGKILL)
    started.communicate()
    last = commands.read_lines(run / "metrics.jsonl")[-1]
    done = commands.run(tmp_path, "status")
    assert done.status == 0 and f"{run.name}  long one  KILLED " in done.out
    assert f" {last['step']} of 1000  " in done.out and "1 run: 1 KILLED" in done.out
    assert (
        f"{run.name} was stale, and is closed as KILLED; python -m recipe resume {run.name} "
        in (done.out)
    )
    assert commands.read_json(run / "run.json")["status"] == "KILLED"
    end = commands.read_lines(run / "events.jsonl")[-1]
    assert (end["kind"], end["status"], end["time"]) == ("end", "KILLED", last["time"])
    run_id = str(run_dirs.read_info(run, "run").mlflow_run_id)
    found = client(tmp_path).get_run(run_id)
    assert (found.info.status, found.info.end_time) == ("KILLED", last["time"])
    assert servers.points(client(tmp_path), run_id) == servers.journal(run)
    again = commands.run(tmp_path, "status")
    assert "was stale" not in again.out and "1 run: 1 KILLED" in again.out


@pytest.mark.integration
def test_resumed_run_continues_same_mlflow_run(tmp_path: Path) -> None:
    run = died(tmp_path, POINTS + "time.sleep(3)", tracked=True)
    commands.run(tmp_path, "status")
    before = servers.journal(run)
    tracking = local(tmp_path / "outputs", experiment="recipe")
    recorder = SentRecorder.resume(run, tracking)
    run_id = str(recorder.mlflow_run_id)
    assert (recorder.run_id, run_dirs.read_info(run, "run").name) == (run.name, "short")
    assert run_dirs.read_info(run, "run").status == "RUNNING"
    for _ in range(100):
        found = client(tmp_path).get_run(run_id).info
        if found.status == "RUNNING":
            break
        time.sleep(0.1)
    assert (found.status, bool(found.end_time)) == ("RUNNING", False)
    for step in range(5, 10):  # 5 to 7 are computed again
        recorder.log_metrics(step, {"loss": 1 / step, "time/step_s": 7.0})
    recorder.close("FINISHED")
    assert (recorder.upload_failure, recorder.differing_points) == (None, 0)
    added = {(key, step) for key, step, _, _ in servers.journal(run) - before}
    assert added == {(key, step) for key in ("loss", "time/step_s") for step in (8, 9)}
    assert before < servers.journal(run)
    (found,) = client(tmp_path).search_runs(["1"])
    assert (found.info.run_id, found.info.status) == (run_id, "FINISHED")
    assert servers.points(client(tmp_path), run_id) == servers.journal(run)
    kinds = [line["kind"] for line in commands.read_lines(run / "events.jsonl")]
    assert kinds == ["started", "tags", "end", "resumed", "end"]


@pytest.mark.integration
def test_differing_recomputed_points_are_kept_and_counted(tmp_path: Path) -> None:
    run = died(
        tmp_path, 'recorder.log_metrics(1, {"loss": float("nan"), "lr": 0.5, "memory/mb": 3})'
    )
    recorder = SentRecorder.resume(run, Tracking(None))
    recorder.log_metrics(1, {"loss": float("nan"), "lr": 0.25, "memory/mb": 4, "new": 1.0})
    recorder.close("FINISHED")
    assert recorder.differing_points == 1
    first, second = commands.read_lines(run / "metrics.jsonl")
    assert first["metrics"]["lr"] == 0.5 and second["metrics"] == {"lr": 0.25, "new": 1.0}


@pytest.mark.integration
def test_second_process_cannot_open_active_run(tmp_path: Path) -> None:
    recorder = SentRecorder(tmp_path / "outputs", "mine", Tracking(None))
    assert run_dirs.is_running(recorder.run_dir)
    program = f"""
from pathlib import Path
from recipe.runner.recorder import Recorder
Recorder.reopen(Path({str(recorder.run_dir)!r}))
"""
    other = commands.spawn(tmp_path, "-c", program, program=(sys.executable,))
    process = commands.read_json(recorder.run_dir / "run.json")["process"]
    assert other.err.splitlines()[-1] == (
        f"recipe.errors.SpecError: run: {recorder.run_id} is being run by process {process}; wait "
        "for "
        "its end"
    )
    recorder.close("FAILED")
    assert not run_dirs.is_running(recorder.run_dir)
    with pytest.raises(SpecError, match="no run"):
        run_dirs.find(tmp_path / "outputs", "other", "run")


@pytest.mark.integration
def test_forked_child_process_does_not_hold_lock_of_killed_run(tmp_path: Path) -> None:
    forks = """
import sys
import threading
if os.fork() == 0:
    os.close(1), os.close(2)
    time.sleep(30)
    os._exit(0)
"""
    run = died(tmp_path, forks)
    assert not run_dirs.is_running(run)


@pytest.mark.integration
def test_truncated_journal_line_does_not_count_as_activity(tmp_path: Path) -> None:
    run = died(tmp_path, POINTS)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "time": 99999999999999, "met')
    at = commands.read_lines(run / "events.jsonl")[-1]["time"]
    assert stale_records.get_last_activity(run) - at < 60_000
    assert " 7 of 40  " in commands.run(tmp_path, "status").out
    recorder = SentRecorder.resume(run, Tracking(None))
    recorder.log_metrics(8, {"loss": 0.1})
    recorder.close("FINISHED")
    assert [line["step"] for line in commands.read_lines(run / "metrics.jsonl")] == [*range(1, 9)]


@pytest.mark.integration
def test_run_killed_after_recording_its_end_keeps_recorded_status(tmp_path: Path) -> None:
    run = died(tmp_path, POINTS)
    with open(run / "events.jsonl", "a") as file:
        file.write('{"kind": "end", "time": 1, "status": "FINISHED"}\n')
    assert "1 run: 1 FINISHED" in commands.run(tmp_path, "status").out
    assert commands.read_json(run / "run.json")["status"] == "FINISHED"
    kinds = [line["kind"] for line in commands.read_lines(run / "events.jsonl")]
    assert kinds == ["started", "tags", "end"]


@pytest.mark.integration
@pytest.mark.long
def test_signal_while_waiting_for_mlflow_keeps_finished_status(tmp_path: Path) -> None:
    with servers.proxy(1) as proxy:
        proxy.delay = 60
        command = (*commands.QUICK, "tracking=server", f"tracking.uri={proxy.uri}")
        started = commands.start(tmp_path, *command)
        while started.poll() is None and '"FINISHED"' not in "".join(
            path.read_text() for path in tmp_path.glob("outputs/runs/*/run.json")
        ):
            time.sleep(0.02)
        started.send_signal(signal.SIGTERM)
        _, err = started.communicate(timeout=60)
        assert (started.returncode, err) == (143, "recipe: terminated\n")
    (run,) = commands.run_dirs(tmp_path)
    assert commands.read_json(run / "run.json")["status"] == "FINISHED"
    assert not run_dirs.is_running(run)
    assert "1 run: 1 FINISHED" in commands.run(tmp_path, "status").out


def test_stale_sweep_is_closed_in_mlflow(tmp_path: Path) -> None:
    sweep = tmp_path / "outputs" / "sweeps" / "20261123-000000-abcdef"
    sweep.mkdir(parents=True)
    (sweep / "sweep.json").write_text(json.dumps({"name": "two", "swept": [], "jobs": 2}))
    lock = sweep_record.start_sweep(sweep)
    tracking = local(tmp_path / "outputs", experiment="recipe")
    SentRecorder(tmp_path / "outputs", "one", tracking, sweep_dir=sweep).close("FINISHED")
    commands.run(tmp_path, "status")
    above = sweep_record.read_record(sweep)["mlflow_run_id"]
    assert client(tmp_path).get_run(above).info.status == "RUNNING"
    lock.release()
    commands.run(tmp_path, "sync")
    assert client(tmp_path).get_run(above).info.status == "KILLED"
    with sweep_record.start_sweep(sweep):  # taken up again
        SentRecorder(tmp_path / "outputs", "two", tracking, sweep_dir=sweep).close("FINISHED")
        assert client(tmp_path).get_run(above).info.status == "RUNNING"


@pytest.mark.integration
def test_status_resume_resumes_stale_run_and_leaves_closed_runs(tmp_path: Path) -> None:
    ended = died(tmp_path, POINTS)
    commands.run(tmp_path, "status")
    started = commands.start(tmp_path, *commands.QUICK, "epochs=60", "tracking=none")
    while not list(tmp_path.glob("outputs/runs/*/checkpoints/step-*.ckpt")):  # named when whole
        assert started.poll() is None
        time.sleep(0.01)
    started.kill()
    started.communicate()
    done = commands.run(tmp_path, "status", "resume=true")
    assert done.status == 0, done.err
    run = commands.run_dirs(tmp_path)[-1]
    assert f"Resumes {run.name} after step" in done.out
    states = [run_dirs.read_info(folder, "run").status for folder in (ended, run)]
    assert states == ["KILLED", "FINISHED"]


@pytest.mark.integration
def test_status_resume_reports_run_without_resumable_state(tmp_path: Path) -> None:
    died(tmp_path, POINTS)
    done = commands.run(tmp_path, "status", "resume=true")
    assert done.status == 1
    assert "was stopped before it began; start it again" in done.out


FINISHED_BY_ANOTHER = """
import os, subprocess, sys, torch
from recipe.components.contract import needs_model

@needs_model
def clip(model):
    if run := os.environ.pop("FINISHES", ""):
        command = [sys.executable, "-m", "recipe", "resume", run, "trust=[parts]"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return lambda params: torch.nn.utils.get_total_norm([p.grad for p in params])
"""


def test_status_resume_accepts_run_finished_by_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"parts.py": FINISHED_BY_ANOTHER, "conf/clip/mine.yaml": "_target_: parts.clip\n"}
    commands.project(tmp_path, files)
    settings = (*commands.QUICK, "clip=mine", "trust=[parts]", "tracking=none")
    assert commands.run(tmp_path, *settings).status == 0
    (run,) = commands.run_dirs(tmp_path)
    info = run_dirs.read_info(run, "run")
    run_dirs.write_info(run, replace(info, status="RUNNING"))
    events = (run / "events.jsonl").read_text().splitlines(keepends=True)
    (run / "events.jsonl").write_text("".join(line for line in events if '"end"' not in line))
    monkeypatch.setenv("FINISHES", run.name)
    monkeypatch.setenv("PYTHONPATH", str(commands.CHECKOUT))
    done = commands.run(tmp_path, "status", "resume=true", "trust=[parts]")
    assert done.status == 0, done.out + done.err
    assert f"{run.name} is FINISHED now, so there is nothing to resume" in done.out


@pytest.mark.integration
def test_run_killed_after_recording_its_end_is_not_resumed(tmp_path: Path) -> None:
    run = died(tmp_path, POINTS)
    with open(run / "events.jsonl", "a") as file:
        file.write('{"kind": "end", "time": 1, "status": "FINISHED"}\n')
    done = commands.run(tmp_path, "status", "resume=true")
    assert done.status == 0
    assert f"{run.name} is FINISHED now, so there is nothing to resume" in done.out


@pytest.mark.integration
def test_status_lists_previously_killed_runs_left_unresumed(tmp_path: Path) -> None:
    run = died(tmp_path, POINTS + 'recorder.log_text("spec.yaml", "name: short")')
    commands.run(tmp_path, "status")
    done = commands.run(tmp_path, "status", "resume=true")
    assert (done.status, done.err) == (0, "")
    assert done.out.endswith(
        f"No stale run was found; 1 run recorded as KILLED before, maybe on purpose, not resumed "
        f"({run.name}); python -m recipe resume {run.name} resumes it\n"
    )


def test_invalid_arguments_are_rejected(tmp_path: Path) -> None:
    done = commands.run(tmp_path, "status", "resume=yes")
    assert (done.status, done.err) == (2, "recipe: resume must be true or false, got yes\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.integration
def test_status_always_reports_ended_run_missing_from_mlflow(tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{servers.free_port()}"
    run = died(tmp_path, POINTS)
    UploadState(uri).write(run)
    died_too = commands.run(tmp_path, "status")
    assert "is closed as KILLED" in died_too.out and "Connection refused" in died_too.out
    for done in (died_too, commands.run(tmp_path, "status")):
        assert done.out.splitlines()[-1] == (
            "1 ended run is not completely in MLflow; python -m recipe sync sends what is left"
        )


def test_run_resumes_without_waiting_for_locked_database(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    tracking = local(outputs, experiment="recipe")
    first = SentRecorder(outputs, "short", tracking)
    first.close("KILLED")
    busy = FileLock(outputs / ".mlflow.lock", thread_local=False)
    with busy:  # a start that waited for it would wait for ever
        again = SentRecorder.resume(first.run_dir, tracking)
        again.log_metrics(1, {"loss": 0.5})
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):  # the end is waited for, until one has had enough
            again.close("FINISHED")
    assert run_dirs.read_info(first.run_dir, "run").status == "FINISHED"
    sent = UploadState.read(first.run_dir)
    assert sent is not None and "1 of metrics.jsonl" in sent.describe_unsent(first.run_dir)
    assert commands.run(tmp_path, "sync").status == 0
    assert client(tmp_path).get_run(str(sent.mlflow_run_id)).info.status == "FINISHED"


def test_folder_without_runs_raises_no_error(tmp_path: Path) -> None:
    for verb in ("status", "sync"):
        done = commands.run(tmp_path, verb)
        assert (done.status, done.err) == (0, "")
        assert done.out == f"There are no runs in {tmp_path}/outputs/runs\n"


def test_status_lists_five_stale_runs_and_counts_the_rest(tmp_path: Path) -> None:
    for number in range(8):
        run = run_dirs.get_runs_dir(tmp_path / "outputs") / f"20260101-000000-00000{number}"
        run.mkdir(parents=True)
        run_dirs.write_info(run, run_dirs.RunInfo(run.name, "one", "RUNNING"))
        UploadState(None).write(run)
        if number:
            (run / "spec.yaml").touch()
    lines = commands.run(tmp_path, "status").out.splitlines()
    assert sum("was stale" in line for line in lines) == 5
    assert lines[-6].endswith("closed as KILLED; it had not started to train, so start it again")
    assert lines[-5].endswith("; python -m recipe resume 20260101-000000-000001 resumes it")
    assert lines[-1] == "and 3 more that were stale, and are closed as KILLED"
