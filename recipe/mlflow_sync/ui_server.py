"""MLflow's server on the record, as a process that never outlives this one's end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.components.tracking.local import database_uri
from recipe.errors import SpecError

SHUTDOWN_TIMEOUT = 10.0
"""Seconds that the server has to end before it is killed."""

SERVER_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PYTHONWARNINGS": "ignore",  # what MLflow's authors are to mend
}


class MlflowServer:
    """Raises SpecError if nothing can listen at `host` and `port`."""

    def __init__(self, host: str, port: int) -> None:
        if problem := _find_port_problem(host, port):
            others = range(port + 1, min(port + 100, 65_536))
            free = next(
                (other for other in others if _find_port_problem(host, other) is None), None
            )
            way_out = f"use port={free}" if free else "give another host or port"
            raise SpecError(f"port={port}: can't be listened on at {host} ({problem}); {way_out}")
        self._host, self._port = host, port
        reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        self.address = f"http://{f'[{reached}]' if ':' in reached else reached}:{port}"
        self._process: subprocess.Popen[bytes]
        # a proxy of the environment is for other addresses
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @contextlib.contextmanager
    def serve(self, outputs: Path) -> Iterator[None]:
        """Within, the server's processes run; afterwards, none of them."""
        command = [
            sys.executable, "-m", "mlflow", "server",
            "--backend-store-uri", database_uri(outputs / "mlflow.db"),
            "--default-artifact-root", (outputs / "mlartifacts").as_uri(),
            "--host", self._host, "--port", str(self._port), "--workers", "1",
            "--uvicorn-opts", "--log-level warning",  # not a line for every request
        ]  # fmt: skip
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # the terminal is closed
            signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
        # Ctrl-C is for this process, which then ends all of the server's
        self._process = subprocess.Popen(
            command, env=os.environ | SERVER_ENVIRONMENT, start_new_session=True
        )
        try:
            yield
        finally:
            try:
                self._send_signal(signal.SIGTERM)
                self._wait_until_exited()
            finally:
                self._send_signal(signal.SIGKILL)
                self._process.wait()

    def wait_until_ready(self) -> bool:
        """Whether it does, once it has begun to; False if it ended before."""
        while self._process.poll() is None:
            with contextlib.suppress(OSError), self._opener.open(f"{self.address}/health"):
                return True
            time.sleep(0.1)
        return False

    def wait(self) -> int:
        """Its exit status, once it has ended; of one that was killed, as a shell has it."""
        status = self._process.wait()
        return 128 - status if status < 0 else status

    def get_experiment_id(self, run_id: str) -> str | None:
        """The id of a run's experiment; None: MLflow doesn't know the run."""
        try:
            found = self._request(f"runs/get?run_id={run_id}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        return str(found["run"]["info"]["experiment_id"])

    def set_experiment_tag(self, experiment: str, key: str, value: str) -> bool:
        """Sets a tag of an experiment; whether MLflow took it."""
        try:
            content = {"experiment_id": experiment, "key": key, "value": value}
            self._request("experiments/set-experiment-tag", content)
        except OSError:  # such as a database that can only be read
            return False
        return True

    def _request(self, path: str, content: dict[str, str] | None = None) -> Any:
        request = urllib.request.Request(
            f"{self.address}/api/2.0/mlflow/{path}",
            json.dumps(content).encode() if content else None,
            {"Content-Type": "application/json"},
        )
        with self._opener.open(request) as answer:
            return json.loads(answer.read())

    def _send_signal(self, number: int) -> bool:
        """To all of the server's processes; whether there are any."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def _wait_until_exited(self) -> None:
        end = time.monotonic() + SHUTDOWN_TIMEOUT
        while time.monotonic() < end:
            self._process.poll()  # one that ended is there until it is asked for
            if not self._send_signal(0):
                return
            time.sleep(0.05)


def _find_port_problem(host: str, port: int) -> str | None:
    """Why nothing could listen there, if so."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        return str(error.strerror).partition(" (while")[0]  # what follows says it once more
    return None
