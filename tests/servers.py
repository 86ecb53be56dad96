"""A real MLflow server on 127.0.0.1 that can be killed, frozen and started again, and a proxy in
front of one that answers as badly as it is told to."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import commands
from mlflow.tracking import MlflowClient

Points = set[tuple[str, int, int, float]]
"""Of a run: key, step, time and value of every point."""


def free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return int(taken.getsockname()[1])


class Server:
    """Its artifacts lie in `folder`, and its database if no other is given; the address stays the
    same. With `admin` it asks for a user and a password, and these are the first ones."""

    def __init__(
        self, folder: Path, *, database: str = "", admin: tuple[str, str] | None = None
    ) -> None:
        self.folder, self.port = folder, free_port()
        self.database = database or f"sqlite:///{folder}/server.db"
        self.admin = admin
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def start(self) -> None:
        """Returns when it answers."""
        command = [
            sys.executable, "-m", "mlflow", "server", "--workers", "1",
            "--host", "127.0.0.1", "--port", str(self.port),
            "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip
        variables = {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_BACKEND_STORE_URI": self.database,  # in the command everybody could read it
        }  # fmt: skip
        if self.admin:
            command += ["--app-name", "basic-auth"]
            config = self.folder / "auth.ini"
            config.write_text(
                "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
                f"database_uri = sqlite:///{self.folder}/users.db\nauth_cache_ttl_seconds = 60\n"
            )
            variables |= {
                "MLFLOW_AUTH_CONFIG_PATH": str(config),
                "MLFLOW_AUTH_ADMIN_USERNAME": self.admin[0],
                "MLFLOW_AUTH_ADMIN_PASSWORD": self.admin[1],
                "MLFLOW_FLASK_SERVER_SECRET_KEY": "signs the forms of its pages",
            }
        with open(self.folder / "server.txt", "ab") as log:
            self._process = subprocess.Popen(
                command, env=commands.environment(**variables), stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        ends = time.monotonic() + 600  # a busy machine takes its time
        answer: object = "was not asked"
        while time.monotonic() < ends and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=10):
                    return
            except OSError as error:
                answer = error
            time.sleep(0.1)
        said = (self.folder / "server.txt").read_text()
        raise TimeoutError(f"{self.uri} ({self._process.poll()}, {answer!r}):\n{said}")

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to all of its processes."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self.send(signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def server(
    folder: Path, *, started: bool = True, database: str = "", admin: tuple[str, str] | None = None
) -> Iterator[Server]:
    made = Server(folder, database=database, admin=admin)
    try:
        if started:
            made.start()
        yield made
    finally:
        made.kill()


class Proxy(ThreadingHTTPServer):
    """In front of the server at `port`."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = port
        self.uri = f"http://127.0.0.1:{self.server_port}"
        self.delay = 0.0
        """Seconds before anything is answered."""
        self.broken = False
        """Answers 500 to everything."""
        self.swallows = ""
        """The end of a path: such a call reaches the server once, and is never answered."""
        self.calls = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing where one of the two sides is gone: that is what it is there to show, and
        its thread may come to know of it while another test reads what was printed."""
        if not isinstance(sys.exception(), OSError | http.client.HTTPException):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def answer(self) -> None:
        proxy = self.server
        proxy.calls += 1
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(proxy.delay)
        if proxy.broken:
            self.send_error(500)
            return
        behind = http.client.HTTPConnection("127.0.0.1", proxy.behind, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
        behind.request(self.command, self.path, body, headers)
        answer = behind.getresponse()
        content = answer.read()
        if proxy.swallows and self.path.endswith(proxy.swallows):
            proxy.swallows = ""
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(OSError):  # whoever asked may have given up
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    made = Proxy(port)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.shutdown()
        made.server_close()


def journal(run: Path) -> Points:
    """The points of a recorded run."""
    return {
        (key, line["step"], line["time"], value)
        for line in commands.read_lines(run / "metrics.jsonl")
        for key, value in line["metrics"].items()
    }


def points(client: MlflowClient, run_id: str) -> Points:
    """The points of a run in MLflow. Fails if one is there twice."""
    found = [
        (key, point.step, point.timestamp, point.value)
        for key in client.get_run(run_id).data.metrics
        for point in client.get_metric_history(run_id, key)
    ]
    assert len(found) == len(set(found))
    return set(found)
