"""A user and a password in an address are refused, with the way out, and shown and kept nowhere."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import commands
import pytest
import servers
import sqlalchemy.exc
from mlflow.exceptions import MlflowException
from sent_runs import SentRecorder

from recipe.components.tracking import Tracking
from recipe.config.credentials import mask_secrets
from recipe.mlflow_sync import client

SECRET = "s3cret/of@the:test"
"""With what ends a password for those who look for the first @ or the first /."""

ADDRESS = f"http://ann:{SECRET}@127.0.0.1:5000"

REFUSED = (
    "recipe: tracking.uri: 'http://***@127.0.0.1:5000' contains a user or a password, which would "
    "be recorded with the run; use http://127.0.0.1:5000 and set MLFLOW_TRACKING_USERNAME "
    "and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment"
)


def check_shown_nowhere(folder: Path, *said: str) -> None:
    left = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    for content in (*(text.encode() for text in said), *left):
        assert b"s3cret" not in content and b"of@the" not in content


@pytest.mark.parametrize("verb", [[], ["plan"], ["-m", "seed=0,1"], ["ablate", "clip=norm"]])
def test_credentials_in_a_command_line_address_are_rejected(
    tmp_path: Path, verb: list[str]
) -> None:
    to = ("tracking=server", f"tracking.uri='{ADDRESS}'")
    done = commands.run(tmp_path, *verb, *commands.QUICK, *to)
    assert done.status == 2 and REFUSED in done.err
    assert not (tmp_path / "outputs" / "runs").exists()
    check_shown_nowhere(tmp_path, done.out, done.err)


def test_credentials_in_a_query_string_are_rejected(tmp_path: Path) -> None:
    to = ("tracking=server", f"tracking.uri='http://127.0.0.1:5000/?token={SECRET.split('@')[0]}'")
    done = commands.run(tmp_path, *commands.QUICK, *to)
    assert done.status == 2
    assert "tracking.uri: 'http://127.0.0.1:5000/?***' has a query, which may contain" in done.err
    assert "use http://127.0.0.1:5000 and set MLFLOW_TRACKING_USERNAME" in done.err
    check_shown_nowhere(tmp_path, done.out, done.err)


def test_credentials_in_an_option_file_or_environment_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", SECRET)
    address = ADDRESS.replace(SECRET, "${oc.env:SECRET}")
    default = "# @package _global_\ndefaults: [override /tracking: server]\n"
    default += f"tracking: {{uri: '{address}'}}\n"
    commands.project(tmp_path, {"conf/project/default.yaml": default})
    done = commands.run(tmp_path, *commands.QUICK)
    assert done.status == 2 and REFUSED in done.err
    assert "s3cret" not in done.out + done.err and not (tmp_path / "outputs").exists()


def recorded(folder: Path) -> Path:
    """A run that an earlier version would have recorded with a password in its spec."""
    done = commands.run(
        folder, *commands.QUICK, "tracking=server",
        f"tracking.uri=http://127.0.0.1:{servers.free_port()}",
    )  # fmt: skip
    assert done.status == 0
    run = commands.run_dirs(folder)[-1]
    spec = run / "spec.yaml"
    uri = next(line for line in spec.read_text().splitlines() if line.strip().startswith("uri: "))
    spec.write_text(spec.read_text().replace(uri, f"  uri: '{ADDRESS}'"))
    (run / "sent.json").unlink(missing_ok=True)
    return run


@pytest.mark.integration
def test_credentials_in_sync_addresses_and_recorded_specs_are_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipe.mlflow_sync.upload_queue.FAILURE_TIMEOUT", 0.0)
    first = recorded(tmp_path)
    second = recorded(tmp_path)
    to = f"tracking.uri={ADDRESS}"
    for arguments in (
        ["sync", to],
        ["status", to],
        ["sync"],
        ["replay", second.name],
        ["replay", second.name, f"tracking.uri='{ADDRESS}'"],
        ["resume", second.name, "epochs=3"],
        [f"spec={second / 'spec.yaml'}"],
        [f"spec={second / 'spec.yaml'}", to],
        ["diff", first.name, second.name],
        ["compare", "--sweep", "all"],
    ):
        done = commands.run(tmp_path, *arguments)
        if arguments[0] not in ("diff", "compare", "status"):
            assert done.status in (1, 2) and "http://***@127.0.0.1:5000" in done.out + done.err
            assert "MLFLOW_TRACKING_PASSWORD" in done.out + done.err, arguments
        assert "s3cret" not in done.out + done.err, arguments
        assert "of@the" not in done.out + done.err, arguments
    (first / "spec.yaml").unlink()
    (second / "spec.yaml").unlink()
    check_shown_nowhere(tmp_path)


def test_secrets_in_mlflow_messages_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a\\b\n")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    assert mask_secrets(f"Bearer a\\b, that is {'a' + chr(92) + 'b'!r}, of the key") == (
        "Bearer ***, that is '***', of the ***"
    )
    said = "as http://ann:p/w@host/a or http://a b@host said"
    assert mask_secrets(said) == "as http://***@host/a or http://***@host said"


@pytest.mark.long
def test_invalid_token_is_masked_in_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "s3cret\n")  # with the end of the file it was in
    recorder = SentRecorder(tmp_path / "outputs", "short", Tracking("http://127.0.0.1:9", "recipe"))
    recorder.close("FINISHED")
    failure = str(recorder.upload_failure)
    assert "in header value: 'Bearer ***\\n'" in failure
    check_shown_nowhere(tmp_path, failure)
    with pytest.raises(Exception, match="s3cret") as error:  # what MLflow itself says
        client.connect(Tracking("http://127.0.0.1:9"), tmp_path)
    assert "s3cret" not in client.describe_error(error.value)


def test_database_errors_are_short_and_omit_the_sql_statement() -> None:
    said = "(sqlite3.OperationalError) database or disk is full"
    shown = f"OperationalError: {said}"
    for error in (
        sqlalchemy.exc.OperationalError("CREATE TABLE runs (" + "x" * 900, {}, Exception("full")),
        MlflowException(f"{said} [SQL: CREATE TABLE runs (\n{'x' * 900})]"),
        RuntimeError("x" * 900 + "\nmore"),
    ):
        told = client.describe_error(error)
        assert "SQL:" not in told and "\n" not in told and len(told) <= 220
    error = sqlalchemy.exc.OperationalError("CREATE", {}, sqlite3.OperationalError(said[27:]))
    assert client.describe_error(error) == shown
