"""Many runs at once, on a database that isn't there yet."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import pytest
import servers
from mlflow.tracking import MlflowClient

from recipe.store import run_dirs

WRITER = """
import sys, time
from pathlib import Path
from recipe.components.tracking.local import local
from recipe.mlflow_sync.upload_queue import UploadQueue
from recipe.runner.recorder import Recorder
outputs, start = Path("outputs").resolve(), float(sys.argv[1])
time.sleep(max(0, start - time.time()))
recorder = Recorder(outputs, f"writer {sys.argv[2]}")
with UploadQueue(outputs, local(outputs, experiment="recipe")) as uploads:
    uploads.request(recorder.run_dir)
    for step in range(100):
        recorder.log_metrics(step, {"loss": 1 / (step + 1), "accuracy": step / 100})
    recorder.close("FINISHED")
    print(uploads.wait([recorder.run_dir]).get(recorder.run_dir))
"""


def start_writers(folder: Path, number: int) -> list[subprocess.Popen[str]]:
    """Processes that all begin to record in two seconds, at the same moment."""
    begin = time.time() + 2
    return [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(begin), str(index)], cwd=folder,
            env=commands.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(number)
    ]  # fmt: skip


@pytest.mark.long
def test_eight_simultaneous_starts_without_database_lose_no_points(tmp_path: Path) -> None:
    for started in start_writers(tmp_path, 8):
        out, err = started.communicate(timeout=240)
        assert (started.returncode, err) == (0, ""), err
        # whoever had to wait for too long leaves the rest to sync
        assert out == "None\n" or "sync sends what is left" in out
    done = commands.run(tmp_path, "sync")
    assert done.status == 0
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("recipe").experiment_id])
    assert sorted(str(run.info.run_name) for run in found) == [f"writer {i}" for i in range(8)]
    assert {run.info.status for run in found} == {"FINISHED"}
    for run in commands.run_dirs(tmp_path):
        there = servers.points(client, str(run_dirs.read_info(run, "run").mlflow_run_id))
        assert there == servers.journal(run) and len(there) == 200


@pytest.mark.long
def test_database_creation_succeeds_after_creating_process_is_killed(tmp_path: Path) -> None:
    (first,) = start_writers(tmp_path, 1)
    while first.poll() is None and not (tmp_path / "outputs" / ".mlflow.db.draft").exists():
        time.sleep(0.01)
    time.sleep(0.3)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not (tmp_path / "outputs" / "mlflow.db").exists()
    (second,) = start_writers(tmp_path, 1)
    assert second.communicate(timeout=240) == ("None\n", "")
    assert commands.run(tmp_path, "sync").status == 0
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("recipe").experiment_id])
    assert sorted(run.info.status for run in found) == ["FINISHED", "FINISHED"]
