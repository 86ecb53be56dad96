"""A shared record: MLflow's server on PostgreSQL, asking for a user and a password.

All of it is long: `pytest -m long tests/integration/test_shared_record.py`.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import commands
import postgres
import pytest
import servers
from sent_runs import SentRecorder
from slow_trick import SLOW, command

from recipe.components.tracking import Tracking
from recipe.store import run_dirs

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(postgres.missing()), reason=str(postgres.missing())),
]

USER, PASSWORD = "the-first-user", "s3cret-of-the-first-user"
IN_HEADER = base64.b64encode(f"{USER}:{PASSWORD}".encode())
"""As a request has it."""


@pytest.fixture(scope="module")
def database() -> Iterator[postgres.Postgres]:
    with postgres.postgres() as made:
        yield made


@pytest.fixture(scope="module")
def server(
    database: postgres.Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[servers.Server]:
    folder = tmp_path_factory.mktemp("server")
    with servers.server(folder, database=database.uri, admin=(USER, PASSWORD)) as made:
        yield made


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)


def check_all_there(server: servers.Server, folder: Path, number: int) -> None:
    """Every run of a folder is there once, and every point of its journal."""
    client, recorded = server.client, commands.run_dirs(folder)
    experiment = client.get_experiment_by_name("recipe").experiment_id
    assert len(recorded) == number
    for run in recorded:
        (found,) = client.search_runs([experiment], f"tags.`recipe.run` = '{run.name}'")
        assert found.info.run_id == run_dirs.read_info(run, "run").mlflow_run_id
        assert found.info.status == "FINISHED"
        assert servers.points(client, found.info.run_id) == servers.journal(run)


def test_server_and_database_restart_loses_no_points_of_eight_runs(
    tmp_path: Path, server: servers.Server, database: postgres.Postgres
) -> None:
    to = Tracking(server.uri, "recipe")
    recorders = [SentRecorder(tmp_path / "outputs", f"run {n}", to) for n in range(8)]
    for step in range(1, 61):
        for recorder in recorders:
            recorder.log_metrics(step, {"loss": 1 / step, "accuracy": step / 100})
        if step == 20:
            while not all(recorder.mlflow_run_id for recorder in recorders):
                time.sleep(0.05)
            database.stop()
        if step == 30:
            database.start()
        if step == 40:
            server.kill()
        time.sleep(0.05)
    server.start()
    for recorder in recorders:
        recorder.close("FINISHED")
    assert commands.run(tmp_path, "sync").status == 0
    check_all_there(server, tmp_path, 8)


def left_behind(*folders: Path) -> Iterator[tuple[Path, bytes]]:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                yield path, path.read_bytes()


def test_password_is_in_no_file_or_output_of_a_run(
    tmp_path: Path,
    server: servers.Server,
    database: postgres.Postgres,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("recipe.mlflow_sync.upload_queue.FAILURE_TIMEOUT", 2.0)
    to = (*commands.QUICK, "tracking=server")
    good = commands.run(tmp_path, *to, f"tracking.uri={server.uri}")
    assert (good.status, good.err) == (0, "") and "MLflow did not take" not in good.out
    gone = commands.run(tmp_path, *to, f"tracking.uri=http://127.0.0.1:{servers.free_port()}")
    assert gone.status == 0 and "Connection refused" in gone.out
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", f"{PASSWORD}?")
    wrong = commands.run(tmp_path, *to, f"tracking.uri={server.uri}", "seed=1")
    assert wrong.status == 0 and "python -m recipe sync sends what is left" in wrong.out
    tried = commands.run(tmp_path, "sync")
    assert tried.status == 1 and "the server doesn't know who sends it" in tried.out
    secrets = (PASSWORD.encode(), IN_HEADER, base64.b64encode(f"{USER}:{PASSWORD}?".encode()))
    for done in (good, gone, wrong, tried):
        assert not any(secret in (done.out + done.err).encode() for secret in secrets)
    assert not any(secret in "".join(capfd.readouterr()).encode() for secret in secrets)
    found = dict(left_behind(tmp_path, server.folder / "artifacts", database.folder / "data"))
    assert any(path.name == "spec.yaml" for path in found) and len(found) > 1000
    assert not [path for path, content in found.items() if any(s in content for s in secrets)]
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert "1 of 3 sent, 1 left" in commands.run(tmp_path, "sync").out


def test_server_and_database_outages_lose_no_points_of_eight_processes(tmp_path: Path) -> None:
    with (
        postgres.postgres() as database,
        servers.server(
            tmp_path / "server", database=database.uri, admin=(USER, PASSWORD)
        ) as server,
    ):
        folder = commands.project(tmp_path / "work", SLOW)
        to = ("tracking=server", f"tracking.uri={server.uri}")
        started = [
            commands.start(folder, *command(200, *to), f"seed={n}", EACH_STEP="0.3")
            for n in range(8)
        ]
        while len(commands.run_dirs(folder)) < 8:
            time.sleep(0.1)
        for _ in range(4):
            time.sleep(10)
            database.stop()
            time.sleep(5)
            database.start()
            time.sleep(10)
            server.kill()
            time.sleep(5)
            server.start()
        assert all(each.poll() is None for each in started)  # all of that while they trained
        (folder / "hurry").touch()
        for each in started:
            _, err = each.communicate(timeout=1200)
            assert (each.returncode, err) == (0, "")
        assert commands.run(folder, "sync").status == 0
        check_all_there(server, folder, 8)
