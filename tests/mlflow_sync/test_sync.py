"""`recipe sync` sends what MLflow lacks once, to its server only, and reports what is rejected."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import commands
import pytest
import servers
from mlflow.tracking import MlflowClient
from sent_runs import SentRecorder

from recipe.components.tracking import Tracking
from recipe.components.tracking.local import local
from recipe.config import compose
from recipe.mlflow_sync import parent_run, upload_queue
from recipe.mlflow_sync.client import connect
from recipe.mlflow_sync.upload import RunUploader
from recipe.store import run_dirs, sweep_record
from recipe.store.upload_state import UploadState


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    with servers.server(tmp_path_factory.mktemp("server")) as made:
        yield made


@pytest.fixture(scope="module")
def unsent(tmp_path_factory: pytest.TempPathFactory, server: servers.Server) -> Path:
    """A folder with a run whose server wasn't there; it is `server`'s now."""
    folder = tmp_path_factory.mktemp("unsent")
    down = f"tracking.uri=http://127.0.0.1:{servers.free_port()}"
    with pytest.MonkeyPatch.context() as impatient:
        impatient.setattr(upload_queue, "FAILURE_TIMEOUT", 0.0)
        done = commands.run(folder, *commands.QUICK, "tracking=server", down)
    assert done.status == 0 and "python -m recipe sync sends what is left" in done.out
    return folder


def record(folder: Path, *, steps: int = 20, sweep: Path | None = None) -> SentRecorder:
    tracking = local(folder / "outputs", experiment="recipe")
    recorder = SentRecorder(folder / "outputs", "short", tracking, sweep_dir=sweep)
    for step in range(steps):
        recorder.log_metrics(step, {"loss": 1 / (step + 1)})
    return recorder


def client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder}/outputs/mlflow.db")


@pytest.mark.integration
def test_sync_sends_missing_data_and_a_second_sync_duplicates_nothing(
    unsent: Path, server: servers.Server
) -> None:
    (run,) = commands.run_dirs(unsent)
    down = commands.run(unsent, "sync")
    assert down.status == 1 and down.out.splitlines()[0].startswith(f"{run.name}  not sent: lines:")
    assert "Connection refused" in down.out
    assert down.out.splitlines()[-1] == (
        "nothing was sent, 1 left; python -m recipe sync sends the rest"
    )
    to = f"tracking.uri={server.uri}"
    first = commands.run(unsent, "sync", to)
    assert (first.status, first.err) == (0, "")
    assert first.out.splitlines()[0].startswith(f"{run.name}  sent lines: 15 of events.jsonl and ")
    assert first.out.splitlines()[-1] == "1 of 1 sent"
    second = commands.run(unsent, "sync", to)
    assert (second.status, second.out) == (0, "MLflow has all of 1 run that ended\n")
    (run / "sent.json").unlink()  # as if it had been killed before it could note anything
    third = commands.run(unsent, "sync", to)
    assert third.status == 0 and "1 of 1 sent" in third.out
    (found,) = server.client.search_runs(
        [server.client.get_experiment_by_name("recipe").experiment_id],
        f"tags.`recipe.run` = '{run.name}'",
    )
    assert servers.points(server.client, found.info.run_id) == servers.journal(run)
    assert (found.info.status, found.data.params["epochs"]) == ("FINISHED", "2")
    assert "model.safetensors" in {
        file.path for file in server.client.list_artifacts(found.info.run_id)
    }
    assert found.data.tags["mlflow.note.content"].startswith("## val/accuracy ")


def test_data_rejected_by_mlflow_is_reported_and_the_rest_is_sent(tmp_path: Path) -> None:
    recorder = record(tmp_path)
    recorder.log_metrics(1, {"a[b]": 1.0, "c": 2.0})
    recorder.log_params({"seed": 0})
    recorder.log_params({"seed": 1, "epochs": 2})  # MLflow keeps a parameter as it was
    recorder.close("FINISHED")
    assert recorder.upload_failure is not None
    first, second = recorder.upload_failure.split("; parameter seed: ")[0], recorder.upload_failure
    assert "metric a[b]: " in recorder.upload_failure and "parameter seed: " in second and first
    assert "sync" not in recorder.upload_failure
    found = client(tmp_path).get_run(str(recorder.mlflow_run_id))
    assert found.data.params == {"seed": "0", "epochs": "2"}
    assert found.data.metrics == {"loss": 0.05, "c": 2.0} and found.info.status == "FINISHED"
    assert commands.run(tmp_path, "sync").out == "MLflow has all of 1 run that ended\n"


def test_run_deleted_in_mlflow_is_reported_and_not_sent(tmp_path: Path) -> None:
    recorder = record(tmp_path)
    while recorder.mlflow_run_id is None:
        time.sleep(0.05)
    client(tmp_path).delete_run(str(recorder.mlflow_run_id))
    recorder.log_params({"seed": 0})
    recorder.close("FINISHED")
    assert str(recorder.upload_failure).startswith("the run was deleted in MLflow; lines: ")
    done = commands.run(tmp_path, "sync")
    assert done.status == 0
    assert done.out.splitlines()[0] == (
        f"{recorder.run_id}  not sent, and never will be: the run was deleted in MLflow"
    )
    client(tmp_path).restore_run(str(recorder.mlflow_run_id))
    assert "1 of 1 sent" in commands.run(tmp_path, "sync").out
    found = client(tmp_path).get_run(str(recorder.mlflow_run_id))
    assert (found.info.status, found.data.params) == ("FINISHED", {"seed": "0"})


@pytest.mark.integration
def test_sync_to_another_server_requires_explicit_argument(unsent: Path) -> None:
    (run,) = commands.run_dirs(unsent)
    spec, kept = run / "spec.yaml", (run / "spec.yaml").read_text()
    sent = (run / "sent.json").read_text()
    try:
        (run / "sent.json").unlink()
        uri = commands.read_json(run / "run.json") and kept.split("uri: ")[1].split()[0]
        spec.write_text(kept.replace(uri, "http://192.0.2.1:5000"))
        done = commands.run(unsent, "sync")
        assert done.status == 1
        assert (
            "recipe: tracking.uri: 'http://192.0.2.1:5000' of this spec is on another" in done.out
        )
    finally:
        spec.write_text(kept)
        (run / "sent.json").write_text(sent)


@pytest.mark.integration
def test_journal_does_not_upload_files_outside_run_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("mine")
    recorder = record(tmp_path)
    (recorder.run_dir / "link.txt").symlink_to(tmp_path / "secret.txt")
    for name in ("../../../secret.txt", str(tmp_path / "secret.txt"), "link.txt", "none.txt"):
        recorder.log_artifact(name)
    recorder.close("FINISHED")
    assert client(tmp_path).list_artifacts(str(recorder.mlflow_run_id)) == []
    assert str(recorder.upload_failure).count("there is no such file in the run's folder") == 4


@pytest.mark.integration
def test_sync_sends_the_missing_end_of_a_sweep(tmp_path: Path) -> None:
    sweep = tmp_path / "outputs" / "sweeps" / "20261123-000000-abcdef"
    sweep.mkdir(parents=True)
    (sweep / "sweep.json").write_text(json.dumps({"name": "two", "swept": [], "jobs": 1}))
    lock = sweep_record.start_sweep(sweep)
    recorder = record(tmp_path, sweep=sweep)
    recorder.close("FINISHED")
    sweep_record.write_end(sweep, "FAILED", "| a table |")
    lock.release()
    nowhere = Tracking(f"http://127.0.0.1:{servers.free_port()}", "recipe")
    assert "Connection refused" in str(
        parent_run.send_sweep_end(nowhere, tmp_path / "outputs", sweep)
    )
    above = client(tmp_path).get_run(sweep_record.read_record(sweep)["mlflow_run_id"])
    assert above.info.status == "RUNNING"
    done = commands.run(tmp_path, "sync")
    assert (done.status, done.out) == (0, "1 of 1 sent\n")
    above = client(tmp_path).get_run(sweep_record.read_record(sweep)["mlflow_run_id"])
    assert (above.info.status, above.data.tags["mlflow.note.content"]) == ("FAILED", "| a table |")
    below = client(tmp_path).get_run(str(recorder.mlflow_run_id))
    assert below.data.tags["mlflow.parentRunId"] == above.info.run_id
    assert commands.run(tmp_path, "sync").out == "MLflow has all of 1 run that ended\n"


def test_outputs_that_were_moved_are_not_created_again(tmp_path: Path) -> None:
    recorder = record(tmp_path)
    recorder.close("FINISHED")
    tracking = local(tmp_path / "outputs", experiment="recipe")
    uploader = RunUploader(recorder.run_dir, tracking)
    (tmp_path / "outputs").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError), uploader.acquire_lock():
        pass
    with pytest.raises(FileNotFoundError):
        connect(tracking, tmp_path / "outputs")
    recorder.uploads.request(recorder.run_dir)
    assert not run_dirs.is_running(recorder.run_dir)
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]


def test_runs_without_tracking_have_nothing_to_sync(tmp_path: Path) -> None:
    recorder = SentRecorder(tmp_path / "outputs", "quiet", Tracking(None))
    recorder.log_metrics(1, {"loss": 1.0})
    recorder.close("FINISHED")
    assert commands.run(tmp_path, "sync").out == "MLflow has all of 1 run that ended\n"
    assert not (tmp_path / "outputs" / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["outputs_dir=x"], "sync: outputs_dir=x: no such argument; did you mean output_dir?"),
        (["resume=true"], "sync: resume=true: no such argument; there are output_dir, "),
    ],
)
def test_invalid_arguments_are_rejected(tmp_path: Path, arguments: list[str], problem: str) -> None:
    done = commands.run(tmp_path, "sync", *arguments)
    assert done.status == 2 and done.err.startswith(f"recipe: {problem}")


def test_sync_rejects_server_address_used_by_no_run(tmp_path: Path) -> None:
    record(tmp_path).close("FINISHED")
    with compose.composition_context():
        spec = compose.Job((*commands.QUICK,), ()).to_spec()
    (run,) = commands.run_dirs(tmp_path)
    (run / "spec.yaml").write_text(spec.to_yaml())
    done = commands.run(tmp_path, "sync", "tracking.uri=http://127.0.0.1:1")
    assert done.status == 2 and "none of these runs goes to a server; leave it out" in done.err


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("at_a_line", [False, True])
def test_truncated_journal_is_sent_again_from_start(
    tmp_path: Path, grows: bool, at_a_line: bool
) -> None:
    recorder = record(tmp_path)
    recorder.close("KILLED")
    journal = recorder.run_dir / "metrics.jsonl"
    sizes = list(itertools.accumulate(len(line) + 1 for line in journal.read_bytes().splitlines()))
    cut(journal, sizes[9] if at_a_line else sizes[9] + 5)  # as after a loss of power
    again = SentRecorder.resume(recorder.run_dir, local(tmp_path / "outputs", experiment="recipe"))
    for step in range(10, 200 if grows else 12):
        again.log_metrics(step, {"other": 1 / (step + 1)})
    again.close("FINISHED")
    assert again.upload_failure is None
    found = servers.points(client(tmp_path), str(again.mlflow_run_id))
    assert servers.journal(again.run_dir) <= found
    assert commands.run(tmp_path, "sync").out == "MLflow has all of 1 run that ended\n"


def test_rewritten_journal_of_equal_length_is_sent_again(tmp_path: Path) -> None:
    recorder = record(tmp_path)
    recorder.close("FINISHED")
    journal = recorder.run_dir / "metrics.jsonl"
    journal.write_text(journal.read_text().replace('"loss"', '"miss"'))
    assert "1 of 1 sent" in commands.run(tmp_path, "sync").out
    found = servers.points(client(tmp_path), str(recorder.mlflow_run_id))
    assert servers.journal(recorder.run_dir) < found


def with_a_database_that_is_removed(folder: Path, sweep: str | None = None) -> Path:
    """A killed run, recorded by another process, as MLflow keeps connections to its files."""
    program = f"""
from pathlib import Path
from recipe.components.tracking.local import local
from recipe.mlflow_sync.upload_queue import UploadQueue
from recipe.runner.recorder import Recorder
outputs = Path("outputs").resolve()
sweep = {sweep!r} and outputs / "sweeps" / {sweep!r}
recorder = Recorder(outputs, "short", sweep_dir=sweep)
for step in range(20):
    recorder.log_metrics(step, {{"loss": 1 / (step + 1)}})
recorder.close("KILLED")
with UploadQueue(outputs, local(outputs, experiment="recipe")) as uploads:
    uploads.wait([recorder.run_dir])
"""
    done = commands.spawn(folder, "-c", program, program=(sys.executable,))
    assert (done.status, done.err) == (0, "")
    for path in (folder / "outputs").glob("mlflow.db*"):
        path.unlink()
    return commands.run_dirs(folder)[0]


@pytest.mark.integration
@pytest.mark.parametrize("another", [False, pytest.param(True, marks=pytest.mark.long)])
def test_sync_refills_removed_database(tmp_path: Path, another: bool) -> None:
    sweep = tmp_path / "outputs" / "sweeps" / "20261123-000000-abcdef"
    sweep.mkdir(parents=True)
    (sweep / "sweep.json").write_text(json.dumps({"name": "two", "swept": [], "jobs": 1}))
    sweep_record.start_sweep(sweep).release()
    run = with_a_database_that_is_removed(tmp_path, sweep.name)
    if another:
        record(tmp_path).close("FINISHED")
    done = commands.run(tmp_path, "sync")
    assert done.status == 0 and f"{run.name}  sent lines: 2 of events" in done.out
    (found,) = client(tmp_path).search_runs(["1"], f"tags.`recipe.run` = '{run.name}'")
    assert found.info.status == "KILLED"
    assert servers.points(client(tmp_path), found.info.run_id) == servers.journal(run)
    above = client(tmp_path).get_run(found.data.tags["mlflow.parentRunId"])
    assert above.data.tags["recipe.sweep"] == sweep.name


@pytest.mark.integration
@pytest.mark.long
def test_run_with_removed_database_resumes_as_new_mlflow_run(tmp_path: Path) -> None:
    run = with_a_database_that_is_removed(tmp_path)
    before = run_dirs.read_info(run, "run").mlflow_run_id
    again = SentRecorder.resume(run, local(tmp_path / "outputs", experiment="recipe"))
    again.log_metrics(30, {"loss": 0.5})
    again.close("FINISHED")
    assert again.upload_failure is None and again.mlflow_run_id != before
    found = servers.points(client(tmp_path), str(again.mlflow_run_id))
    assert found == servers.journal(again.run_dir) and len(found) == 21


@pytest.mark.parametrize("name", ["events.jsonl", "metrics.jsonl"])
def test_damaged_journal_affects_only_its_own_run(tmp_path: Path, name: str) -> None:
    damaged, whole = record(tmp_path), record(tmp_path)
    for recorder in (damaged, whole):
        recorder.close("FINISHED")
        (recorder.run_dir / "sent.json").unlink()
    path = damaged.run_dir / name
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"\x00\xff garbage\n", *lines[1:]]))
    done = commands.run(tmp_path, "sync")
    assert done.status == 1
    assert f"recipe: {path}: line 2 is damaged\n" in done.out
    assert f"{whole.run_id}  sent lines: 2 of events.jsonl and 20 of metrics.jsonl" in done.out
    assert "1 of 2 sent, 1 left" in done.out


def test_sync_reports_unwritable_run_folder_and_sends_other_runs(tmp_path: Path) -> None:
    stuck, whole = record(tmp_path), record(tmp_path)
    for recorder in (stuck, whole):
        recorder.close("FINISHED")
        (recorder.run_dir / "sent.json").unlink()
    for name in (".lock", ".sending"):
        (stuck.run_dir / name).unlink(missing_ok=True)
        (stuck.run_dir / name).mkdir()
    done = commands.run(tmp_path, "sync")
    assert (done.status, done.err) == (1, "")
    assert f"recipe: {stuck.run_dir} can't be written: Is a directory\n" in done.out
    assert "1 of 2 sent, 1 left" in done.out


@pytest.mark.integration
def test_unreachable_server_is_reported_in_one_line(tmp_path: Path) -> None:
    port = servers.free_port()
    recorder = record(tmp_path)
    recorder.close("FINISHED")
    UploadState(f"http://127.0.0.1:{port}").write(recorder.run_dir)
    done = commands.run(tmp_path, "sync")
    assert f"recipe: 127.0.0.1:{port}: Connection refused" in done.out.splitlines()
