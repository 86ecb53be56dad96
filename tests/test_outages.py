"""MLflow's server goes away, hangs, fails, is slow: training goes on, and nothing is lost."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import commands
import pytest
import servers

from recipe.record import Recorder
from recipe.tracking import Tracking

QUICKLY = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
"""Seconds that a server has for an answer."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    with servers.server(tmp_path_factory.mktemp("server")) as made:
        yield made


@pytest.fixture
def proxy(server: servers.Server) -> Iterator[servers.Proxy]:
    with servers.proxy(server.port) as made:
        yield made


def until_recorded(started: subprocess.Popen[str], folder: Path, step: int) -> Path:
    """Waits until a run has come so far; its folder."""
    while started.poll() is None:
        for run in commands.runs(folder):
            path = run / "metrics.jsonl"
            lines = path.read_text().splitlines() if path.exists() else []
            if lines and f'"step": {step}' in lines[-1]:
                return run
            if lines and int(lines[-1].split('"step": ')[1].split(",")[0]) >= step:
                return run
        time.sleep(0.02)
    raise AssertionError(started.communicate())


def longest_pause(run: Path) -> float:
    """Seconds between two steps of the loop, as the journal has them."""
    times = [line["time"] for line in commands.read_lines(run / "metrics.jsonl")]
    return float(max(b - a for a, b in itertools.pairwise(times))) / 1000


def numbers(run: Path) -> set[tuple[str, int, float]]:
    """The points, less what only the clock and the machine decide."""
    return {
        (key, step, value)
        for key, step, _, value in servers.journal(run)
        if not key.startswith(("time/", "memory/"))
    }


def disturbed(folder: Path, epochs: int, rounds: int) -> tuple[Path, servers.Server, str]:
    """A run whose server isn't there at first, then is started, frozen, thawed, killed and started
    again, so many times; its folder, the server and the last line of its output."""
    server = servers.Server(folder / "server")
    command = (
        *commands.QUICK, f"epochs={epochs}", "tracking=server", f"tracking.uri={server.uri}",
    )  # fmt: skip
    started = commands.start(folder, *command, **QUICKLY)
    steps = iter(range(2, 2 * epochs, 2 * epochs // (5 * rounds) or 1))
    until_recorded(started, folder, next(steps))
    for _ in range(rounds):
        server.start()
        until_recorded(started, folder, next(steps))
        server.freeze()
        until_recorded(started, folder, next(steps))
        server.thaw()
        until_recorded(started, folder, next(steps))
        server.kill()
        until_recorded(started, folder, next(steps))
    server.start()
    out, err = started.communicate(timeout=300)
    assert (started.returncode, err) == (0, "")
    (run,) = commands.runs(folder)
    return run, server, out.splitlines()[-1]


def check_disturbed(folder: Path, epochs: int, rounds: int) -> float:
    """The longest pause of the loop, which had the same numbers as one that wasn't disturbed."""
    run, server, last = disturbed(folder / "disturbed", epochs, rounds)
    try:
        assert not last.startswith("MLflow did not take"), last
        run_id = commands.read_json(run / "run.json")["mlflow_run_id"]
        assert servers.points(server.client, run_id) == servers.journal(run)
        assert server.client.get_run(run_id).info.status == "FINISHED"
    finally:
        server.kill()
    (folder / "calm").mkdir()
    command = (*commands.QUICK, f"epochs={epochs}", "tracking=none")
    assert commands.process(folder / "calm", *command).status == 0
    (calm,) = commands.runs(folder / "calm")
    assert numbers(run) == numbers(calm)
    pauses = longest_pause(run), longest_pause(calm)
    print(f"longest pause of the loop: {pauses[0]:.3f} s; undisturbed {pauses[1]:.3f} s")
    return pauses[0]


def test_a_run_whose_server_comes_and_goes_has_all_its_points_there_in_the_end(
    tmp_path: Path,
) -> None:
    (tmp_path / "disturbed").mkdir()
    check_disturbed(tmp_path, epochs=120, rounds=1)


@pytest.mark.long
def test_the_same_many_times(tmp_path: Path) -> None:
    (tmp_path / "disturbed").mkdir()
    check_disturbed(tmp_path, epochs=1500, rounds=8)


def record(folder: Path, uri: str, steps: int = 30, pause: float = 0.0) -> Recorder:
    recorder = Recorder(folder / "outputs", "short", Tracking(uri, "recipe"))
    recorder.parameters({"seed": 0})
    for step in range(steps):
        recorder.metrics(step, {"loss": 1 / (step + 1), "accuracy": step / 100})
        time.sleep(pause)
    recorder.text("note.txt", "what it was about")
    return recorder


def check_all_there(recorder: Recorder, server: servers.Server, status: str = "FINISHED") -> None:
    """The run is in MLflow once, with all that is on disk."""
    client = server.client
    (experiment,) = client.search_experiments(filter_string="name = 'recipe'")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`recipe.run` = '{recorder.id}'")
    assert run.info.run_id == recorder.mlflow_run_id
    assert (run.info.status, run.data.params) == (status, {"seed": "0"})
    assert servers.points(client, run.info.run_id) == servers.journal(recorder.folder)
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["note.txt"]


def test_a_server_that_fails_is_asked_again_until_it_answers(
    tmp_path: Path, server: servers.Server, proxy: servers.Proxy
) -> None:
    proxy.broken = True
    recorder = record(tmp_path, proxy.uri, pause=0.05)
    assert proxy.calls > 0 and recorder.mlflow_run_id is None
    proxy.broken = False
    recorder.close("FINISHED")
    assert recorder.failure is None
    check_all_there(recorder, server)


def test_a_slow_server_has_all_of_it_in_the_end(
    tmp_path: Path, server: servers.Server, proxy: servers.Proxy
) -> None:
    proxy.delay = 0.7
    recorder = record(tmp_path, proxy.uri)
    assert recorder.mlflow_run_id is None  # nobody has waited for it
    recorder.close("KILLED")
    assert recorder.failure is None
    check_all_there(recorder, server, "KILLED")


@pytest.mark.parametrize("call", ["runs/create", "runs/log-batch", "runs/update", "note.txt"])
def test_a_call_whose_answer_is_lost_is_made_again_and_doubles_nothing(
    tmp_path: Path, server: servers.Server, proxy: servers.Proxy, call: str
) -> None:
    proxy.swallows = call
    recorder = record(tmp_path, proxy.uri)
    recorder.close("FINISHED")
    assert recorder.failure is None and proxy.swallows == ""
    check_all_there(recorder, server)


def test_a_run_that_a_frozen_server_made_too_late_does_not_stay(
    tmp_path: Path, server: servers.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    server.client.get_experiment_by_name("Default")  # it answers
    with servers.proxy(server.port) as proxy:
        recorder = Recorder(tmp_path / "outputs", "short", Tracking(proxy.uri, "recipe"))
        server.freeze()
        for step in range(30):
            recorder.metrics(step, {"loss": 1 / (step + 1)})
            time.sleep(0.1)
        server.thaw()
        recorder.parameters({"seed": 0})
        recorder.text("note.txt", "what it was about")
        recorder.close("FINISHED")
    assert recorder.failure is None
    check_all_there(recorder, server)
