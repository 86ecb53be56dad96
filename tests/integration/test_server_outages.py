"""MLflow's server stops, hangs, fails or is slow: training continues, and nothing is lost."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import commands
import psutil
import pytest
import servers
from mlflow.tracking import MlflowClient
from sent_runs import SentRecorder
from slow_trick import SLOW, command

from recipe.components.tracking import Tracking
from recipe.components.tracking.local import local
from recipe.mlflow_sync import upload_queue
from recipe.store import run_dirs
from recipe.store.upload_state import UploadState

QUICKLY = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}
"""Seconds that a server has for an answer."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    with servers.server(tmp_path_factory.mktemp("server")) as made:
        yield made


@pytest.fixture
def proxy(server: servers.Server) -> Iterator[servers.Proxy]:
    with servers.proxy(server.port) as made:
        yield made


def longest_pause(run: Path) -> float:
    """Seconds between two steps of the loop, as the journal has them."""
    lines = commands.read_lines(run / "metrics.jsonl")
    times = [line["time"] for line in lines if line["step"]]  # what is noted at 0 comes before it
    return float(max(b - a for a, b in itertools.pairwise(times))) / 1000


def numbers(run: Path) -> set[tuple[str, int, float]]:
    """The points, less what only the clock and the machine decide."""
    return {
        (key, step, value)
        for key, step, _, value in servers.journal(run)
        if not key.startswith(("time/", "memory/"))
    }


def wait_until_sent(started: subprocess.Popen[str], run: Path) -> None:
    """Waits until MLflow has more of a run."""
    sent = UploadState.read(run)
    before = sent.metrics if sent else 0
    while (sent := UploadState.read(run)) is None or sent.metrics <= before:
        assert started.poll() is None, started.communicate()
        time.sleep(0.05)


def disturb(folder: Path, server: servers.Server, epochs: int, rounds: int) -> Path:
    """A run whose server isn't there at first, and then is started, frozen, thawed and killed so
    many times, before it stays."""
    to = ("tracking=server", f"tracking.uri={server.uri}")
    started = commands.start(folder, *command(epochs, *to), **QUICKLY, EACH_STEP="2")
    while started.poll() is None and not commands.run_dirs(folder):
        time.sleep(0.05)
    (run,) = commands.run_dirs(folder)
    for _ in range(rounds):
        server.start()
        wait_until_sent(started, run)
        server.freeze()
        time.sleep(2.5)  # longer than a call may take
        server.thaw()
        wait_until_sent(started, run)
        server.kill()
        time.sleep(1)
    server.start()
    assert started.poll() is None  # all that happened while it went on
    (folder / "hurry").touch()
    out, err = started.communicate(timeout=600)
    assert (started.returncode, err) == (0, "") and "MLflow did not take" not in out
    return run


def check_disturbed(folder: Path, epochs: int, rounds: int) -> None:
    """Same points as undisturbed, here and in MLflow; prints the longest pauses of the loop."""
    with servers.server(folder / "server", started=False) as server:
        run = disturb(commands.project(folder / "disturbed", SLOW), server, epochs, rounds)
        run_id = commands.read_json(run / "sent.json")["mlflow_run_id"]
        assert servers.points(server.client, run_id) == servers.journal(run)
        assert server.client.get_run(run_id).info.status == "FINISHED"
    calmly = commands.project(folder / "calm", SLOW)
    assert commands.spawn(calmly, *command(epochs, "tracking=none"), EACH_STEP="0").status == 0
    (calm,) = commands.run_dirs(calmly)
    assert numbers(run) == numbers(calm)
    print(
        f"\nlongest pause of the loop: {longest_pause(run):.3f} s; "
        f"undisturbed, without the 2 s of each step: {longest_pause(calm):.3f} s"
    )


@pytest.mark.long
def test_server_outages_lose_no_points(tmp_path: Path) -> None:
    check_disturbed(tmp_path, epochs=100, rounds=1)


@pytest.mark.long
def test_repeated_server_outages_lose_no_data(tmp_path: Path) -> None:
    check_disturbed(tmp_path, epochs=300, rounds=6)


def record(folder: Path, uri: str, steps: int = 30, pause: float = 0.0) -> SentRecorder:
    recorder = SentRecorder(folder / "outputs", "short", Tracking(uri, "recipe"))
    recorder.log_params({"seed": 0})
    for step in range(steps):
        recorder.log_metrics(step, {"loss": 1 / (step + 1), "accuracy": step / 100})
        time.sleep(pause)
    recorder.log_text("note.txt", "what it was about")
    return recorder


def check_all_there(
    recorder: SentRecorder, server: servers.Server, status: str = "FINISHED"
) -> None:
    """The run is in MLflow once, with all that is on disk."""
    client = server.client
    (experiment,) = client.search_experiments(filter_string="name = 'recipe'")
    (run,) = client.search_runs(
        [experiment.experiment_id], f"tags.`recipe.run` = '{recorder.run_id}'"
    )
    assert run.info.run_id == recorder.mlflow_run_id
    assert (run.info.status, run.data.params) == (status, {"seed": "0"})
    assert servers.points(client, run.info.run_id) == servers.journal(recorder.run_dir)
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["note.txt"]


def test_failing_server_is_retried_until_success(
    tmp_path: Path, server: servers.Server, proxy: servers.Proxy
) -> None:
    proxy.broken = True
    recorder = record(tmp_path, proxy.uri)
    ends = time.monotonic() + 60  # what feeds MLflow imports it first
    while not proxy.calls and time.monotonic() < ends:
        time.sleep(0.05)
    assert proxy.calls > 0 and recorder.mlflow_run_id is None
    proxy.broken = False
    recorder.close("FINISHED")
    assert recorder.upload_failure is None
    check_all_there(recorder, server)


def test_error_response_of_a_failing_server_is_reported(
    tmp_path: Path, proxy: servers.Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    proxy.broken = True
    recorder = record(tmp_path, proxy.uri)
    recorder.close("FINISHED")
    assert "the server answers 500" in str(recorder.upload_failure)
    assert "Max retries" not in str(recorder.upload_failure)


def test_slow_server_receives_complete_run(
    tmp_path: Path, server: servers.Server, proxy: servers.Proxy
) -> None:
    proxy.delay = 0.7
    recorder = record(tmp_path, proxy.uri)
    assert recorder.mlflow_run_id is None  # nobody has waited for it
    recorder.close("KILLED")
    assert recorder.upload_failure is None
    check_all_there(recorder, server, "KILLED")


@pytest.mark.parametrize("call", ["runs/create", "runs/log-batch", "runs/update", "note.txt"])
def test_call_with_lost_response_is_retried_without_duplicates(
    tmp_path: Path, server: servers.Server, proxy: servers.Proxy, call: str
) -> None:
    proxy.swallows = call
    recorder = record(tmp_path, proxy.uri)
    recorder.close("FINISHED")
    assert recorder.upload_failure is None and proxy.swallows == ""
    check_all_there(recorder, server)


def test_duplicate_run_created_late_by_hung_server_is_removed(
    tmp_path: Path, server: servers.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    server.client.get_experiment_by_name("Default")  # it answers
    with servers.proxy(server.port) as proxy:
        recorder = SentRecorder(tmp_path / "outputs", "short", Tracking(proxy.uri, "recipe"))
        server.freeze()
        for step in range(30):
            recorder.log_metrics(step, {"loss": 1 / (step + 1)})
            time.sleep(0.1)
        server.thaw()
        recorder.log_params({"seed": 0})
        recorder.log_text("note.txt", "what it was about")
        recorder.close("FINISHED")
    assert recorder.upload_failure is None
    check_all_there(recorder, server)


def uploaders() -> list[psutil.Process]:
    """The processes of this test that send records to MLflow."""
    found = []
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # or it has ended, and was not waited for
            if any(text.startswith("follow=") for text in each.cmdline()):
                found.append(each)
    return found


def check_points(tracking: Tracking, run: Path, number: int) -> None:
    client = MlflowClient(tracking.uri)
    found = servers.points(client, str(run_dirs.read_info(run, "run").mlflow_run_id))
    assert found == servers.journal(run) and len(found) == number


def test_killed_uploader_is_replaced_and_the_rest_is_sent(tmp_path: Path) -> None:
    tracking = local(tmp_path / "outputs", experiment="recipe")
    recorder = SentRecorder(tmp_path / "outputs", "short", tracking)
    recorder.log_metrics(1, {"loss": 0.5})
    for uploader in uploaders():
        uploader.kill()
    recorder.log_metrics(2, {"loss": 0.25})
    recorder.close("FINISHED")
    assert recorder.upload_failure is None
    check_points(tracking, recorder.run_dir, 2)


def test_run_finishes_without_an_uploader_and_sync_sends_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(3)")
    tracking = local(tmp_path / "outputs", experiment="recipe")
    with monkeypatch.context() as broken:
        broken.setenv("PYTHONPATH", str(tmp_path))
        recorder = SentRecorder(tmp_path / "outputs", "short", tracking)
        recorder.log_metrics(1, {"loss": 0.5})
        recorder.close("FINISHED")
    said = "the process that sends it ended with status 3; python -m recipe sync "
    assert str(recorder.upload_failure).startswith(said)
    assert commands.run(tmp_path, "sync").status == 0
    check_points(tracking, recorder.run_dir, 1)


def test_run_finishes_if_the_uploader_hangs_and_the_next_run_restarts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = local(tmp_path / "outputs", experiment="x")
    recorder = SentRecorder(tmp_path / "outputs", "short", tracking)
    for uploader in uploaders():
        uploader.suspend()
    recorder.log_metrics(1, {"loss": 0.5})
    with monkeypatch.context() as hurried:
        hurried.setattr(upload_queue, "DATABASE_CALL_TIMEOUT", 1.0)
        hurried.setattr(upload_queue, "HEARTBEAT_TIMEOUT", 0.5)
        recorder.close("FINISHED")
    said = "the process that sends it doesn't answer; python -m recipe sync "
    assert str(recorder.upload_failure).startswith(said)
    next_one = SentRecorder(tmp_path / "outputs", "next", tracking)
    next_one.close("FINISHED")
    assert next_one.upload_failure is None


def test_uploader_exits_after_its_run_is_killed(tmp_path: Path) -> None:
    started = commands.start(tmp_path, *commands.QUICK, "epochs=100000")
    while not commands.run_dirs(tmp_path):
        assert started.poll() is None, started.communicate()
        time.sleep(0.05)
    found = [each for each in uploaders() if each.ppid() == started.pid]
    started.kill()
    started.communicate()
    gone, alive = psutil.wait_procs(found, timeout=60)
    assert len(gone) == 1 and not alive
