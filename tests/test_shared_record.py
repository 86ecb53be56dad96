"""A shared record: MLflow's server on PostgreSQL, asking for a user and a password."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import commands
import postgres
import pytest
import servers

from recipe import runs
from recipe.record import Recorder
from recipe.tracking import Tracking

pytestmark = pytest.mark.skipif(bool(postgres.missing()), reason=str(postgres.missing()))

USER, PASSWORD = "the-first-user", "s3cret-of-the-first-user"


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
    client, recorded = server.client, commands.runs(folder)
    experiment = client.get_experiment_by_name("recipe").experiment_id
    assert len(recorded) == number
    for run in recorded:
        (found,) = client.search_runs([experiment], f"tags.`recipe.run` = '{run.name}'")
        assert found.info.run_id == runs.read(run, "run").mlflow_run_id
        assert found.info.status == "FINISHED"
        assert servers.points(client, found.info.run_id) == servers.journal(run)


def test_eight_runs_at_once_lose_nothing_when_server_and_database_are_restarted(
    tmp_path: Path, server: servers.Server, database: postgres.Postgres
) -> None:
    to = Tracking(server.uri, "recipe")
    recorders = [Recorder(tmp_path / "outputs", f"run {n}", to) for n in range(8)]
    for step in range(1, 61):
        for recorder in recorders:
            recorder.metrics(step, {"loss": 1 / step, "accuracy": step / 100})
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
    assert commands.here(tmp_path, "sync").status == 0
    check_all_there(server, tmp_path, 8)
