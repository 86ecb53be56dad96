"""`recipe ui` as a process: what it refuses, what it opens, how it ends."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import commands
import psutil
import pytest
import servers

SWEEP = ("-m", *commands.CPU, "model=mlp", "data.train_size=100", "epochs=1", "seed=0,1")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep in MLflow, and a later one that isn't."""
    folder = tmp_path_factory.mktemp("recorded")
    assert commands.sweep(folder, *SWEEP).status == 0
    assert commands.sweep(folder, *SWEEP, "clip=norm", "tracking=none").status == 0
    return folder


def sweeps(folder: Path) -> list[Path]:
    return sorted((folder / "outputs" / "sweeps").iterdir())


@contextlib.contextmanager
def started(folder: Path, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    process = commands.start(folder, "ui", *arguments, **variables)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def pages(process: subprocess.Popen[str]) -> dict[str, str]:
    """The addresses it shows, once the server answers."""
    assert process.stdout is not None
    found = {}
    while "Curves" not in found:
        what, _, address = process.stdout.readline().strip().partition(" ")
        assert what, f"it ended with {process.wait()}"
        found[what] = address.strip()
    return found


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that run; one that ended is there until whoever inherited it asks."""
    there = [process for process in processes if process.is_running()]
    return [process for process in there if process.status() != psutil.STATUS_ZOMBIE]


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = psutil.Process(process.pid).children(recursive=True)
    assert found
    return found


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("port=0", "port must be a number from 1 to 65535, got 0"),
        ("port=65536", "port must be a number from 1 to 65535, got 65536"),
        ("port=http", "port must be a number from 1 to 65535, got http"),
        ("open=yes", "open must be true or false, got yes"),
        ("--port 0", "port must be a number from 1 to 65535, got 0"),
        ("prt=5000", "ui: prt=5000: no such argument; did you mean port?"),
    ],
)
def test_ui_arguments_are_checked(recorded: Path, argument: str, problem: str) -> None:
    done = commands.run(recorded, "ui", *argument.split())
    assert (done.status, done.problems) == (2, [f"recipe: {problem}"])


def test_ui_rejects_unknown_ambiguous_or_unsent_sweep(recorded: Path) -> None:
    there = recorded / "outputs" / "sweeps"
    unknown = commands.run(recorded, "ui", "seed=0,2")
    assert (unknown.status, unknown.problems) == (
        2,
        [f"recipe: sweep: no sweep 'seed=0,2' is recorded in {there}; did you mean seed=0,1?"],
    )
    both = commands.run(recorded, "ui", "20")
    (problem,) = both.problems
    assert problem.startswith("recipe: sweep: '20' begins 2 sweep ids; give more of it: 20")
    elsewhere = sweeps(recorded)[1].name
    without = commands.run(recorded, "ui", elsewhere)
    assert without.problems == [
        f"recipe: sweep: {elsewhere} has no run in MLflow; give another sweep"
    ]


def test_ui_rejects_occupied_port_and_suggests_free_port(recorded: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        done = commands.run(recorded, "ui", f"port={port}")
    problem, _, free = done.err.strip().rpartition("; use port=")
    assert done.status == 2 and done.out == ""
    assert problem == (
        f"recipe: port={port}: can't be listened on at 127.0.0.1 (Address already in use)"
    )
    socket.create_server(("127.0.0.1", int(free))).close()


@pytest.mark.integration
def test_ui_opens_newest_sweep_and_leaves_no_process_after_sigterm(
    recorded: Path, tmp_path: Path
) -> None:
    opened, port = tmp_path / "opened", servers.free_port()
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}.part && mv {opened}.part {opened}\n')
    browser.chmod(0o755)
    arguments = (f"port={port}", "open=true")
    with started(recorded, *arguments, BROWSER=f"{browser} %s") as process:
        found = pages(process)
        for _ in range(600):
            if opened.exists():
                break
            time.sleep(0.1)
        assert opened.read_text() == found["Sweep"]
        run = commands.read_json(sweeps(recorded)[0] / "sweep.json")["mlflow_run_id"]
        assert f":{port}/#/experiments/" in found["Sweep"] and run in found["Sweep"]
        server = children(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        assert not alive(server)
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.integration
@pytest.mark.long
def test_ui_exits_with_the_servers_status_and_leaves_no_process(recorded: Path) -> None:
    beginning = sweeps(recorded)[0].name[:-1]
    with started(recorded, beginning, f"port={servers.free_port()}", "open=false") as process:
        pages(process)
        server = children(process)
        (first,) = psutil.Process(process.pid).children()
        first.kill()
        assert process.wait(60) == 128 + signal.SIGKILL
        assert not alive(server)
