"""MLflow's server for the recorded runs, as a child process that ends with this one."""

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
"""Seconds before the server is killed."""

SERVER_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PYTHONWARNINGS": "ignore",  # about MLflow's own code
}


class MlflowServer:
    """Raises SpecError if the port can't be used."""

    def __init__(self, host: str, port: int) -> None:
        if problem := _find_port_problem(host, port):
            others = range(port + 1, min(port + 100, 65_536))
            free = next(
                (other for other in others if _find_port_problem(host, other) is None), None
            )
            way_out = f"use port={free}" if free else "give another host or port"
            raise SpecError(f"port={port}: can't be listened on at {host} ({problem}); {way_out}")
        self._host, self._port = host, port
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        self.address = f"http://{f'[{address}]' if ':' in address else address}:{port}"
        self._process: subprocess.Popen[bytes]
        # the environment's proxy is for other addresses
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @contextlib.contextmanager
    def serve(self, outputs: Path) -> Iterator[None]:
        """Runs the server's processes during the block."""
        command = [
            sys.executable, "-m", "mlflow", "server",
            "--backend-store-uri", database_uri(outputs / "mlflow.db"),
            "--default-artifact-root", (outputs / "mlartifacts").as_uri(),
            "--host", self._host, "--port", str(self._port), "--workers", "1",
            "--uvicorn-opts", "--log-level warning",  # not a line for every request
        ]  # fmt: skip
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # the terminal is closed
            signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
        # Ctrl-C reaches this process alone, which then ends those of the server
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
        """Waits until the server answers. Returns False if it has ended instead."""
        while self._process.poll() is None:
            with contextlib.suppress(OSError), self._opener.open(f"{self.address}/health"):
                return True
            time.sleep(0.1)
        return False

    def wait(self) -> int:
        """Waits for the end and returns the exit status, as a shell gives it."""
        status = self._process.wait()
        return 128 - status if status < 0 else status

    def get_experiment_id(self, run_id: str) -> str | None:
        """Returns None if MLflow doesn't know the run."""
        try:
            found = self._request(f"runs/get?run_id={run_id}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        return str(found["run"]["info"]["experiment_id"])

    def set_experiment_tag(self, experiment: str, key: str, value: str) -> bool:
        """Returns False if MLflow rejected the tag."""
        try:
            content = {"experiment_id": experiment, "key": key, "value": value}
            self._request("experiments/set-experiment-tag", content)
        except OSError:  # such as for a read-only database
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
        """Signals the server's process group. Returns False if it is empty."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def _wait_until_exited(self) -> None:
        end = time.monotonic() + SHUTDOWN_TIMEOUT
        while time.monotonic() < end:
            self._process.poll()  # removes a zombie
            if not self._send_signal(0):
                return
            time.sleep(0.05)


def _find_port_problem(host: str, port: int) -> str | None:
    """Returns why the port can't be used, or None."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        return str(error.strerror).partition(" (while")[0]  # the rest repeats it
    return None
