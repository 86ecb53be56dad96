"""Requests to send the record of a run, or the end of a sweep, to MLflow.

A request is a file in `<outputs>/.uploads/<host and server>/`, named after the run or sweep. One
process per such folder, the uploader, serves them (`recipe.mlflow_sync.uploader`), however many
processes train: training never waits for MLflow, and an sqlite database has one writer. The first
process that needs the uploader starts it; it holds the folder's lock from its start on. It reads
the runs' journals, so that a run needs a single request.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from recipe import atomic_write
from recipe.components.tracking import Tracking
from recipe.components.tracking.local import database_path
from recipe.config.instantiate import instantiate
from recipe.config.spec import RunSpec
from recipe.errors import SpecError
from recipe.store import run_dirs, sweep_record
from recipe.store.journal import DamagedJournalError
from recipe.store.upload_state import UploadState

FAILURE_TIMEOUT = 10.0
"""Seconds after the first failure without progress, after which a server is given up."""

SERVER_CALL_TIMEOUT, DATABASE_CALL_TIMEOUT = 15.0, 60.0
"""Seconds without progress after which `wait` gives up: a server may be frozen, while a database is
only slow if other processes compute."""

HEARTBEAT_TIMEOUT = 10.0
"""Seconds without a heartbeat after which the uploader is killed."""

EXIT_TIMEOUT = 2.0

LAUNCH_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""torchrun's environment variables; the uploader is not one of its processes."""


class UploadQueue:
    """The requests for one MLflow server, from this machine. Only `wait` waits for MLflow.

    As a context manager it starts the uploader, and closes the one that it started.
    """

    def __init__(self, outputs: Path, tracking: Tracking) -> None:
        self._outputs, self._tracking = outputs, tracking
        self._folder = get_queue_dir(outputs, tracking)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> UploadQueue:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(self) -> bool:
        """Starts the uploader unless there is one. Returns whether it did; raises nothing."""
        if self._tracking.uri is None:
            return False
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            if started := _start_uploader(self._folder):
                self._process = started
                return True
        return False

    def request(self, record_dir: Path) -> None:
        """Requests that a run or a sweep be sent; raises nothing, as `wait` repeats the request.

        Without a server, the run is marked as one that is not to be sent.
        """
        if self._tracking.uri is None:
            if UploadState.read(record_dir) is None:
                UploadState(None).write(record_dir)
            return
        if not record_dir.is_dir():  # it was moved
            return
        self.start()
        content = {"record": f"{record_dir.parent.name}/{record_dir.name}"}
        with contextlib.suppress(OSError):
            atomic_write.write_file(
                self._get_request_path(record_dir),
                json.dumps(content | asdict(self._tracking)).encode(),
                sync=False,
            )

    def wait(self, record_dirs: Sequence[Path]) -> dict[Path, str]:
        """Waits until MLflow has these runs and sweeps, or makes no progress.

        Returns what MLflow lacks, by folder. Requests that are not complete by then are withdrawn,
        also where a signal interrupts the waiting.
        """
        if self._tracking.uri is None:
            return {}
        try:
            for each in record_dirs:
                if each.parent.name == "sweeps":  # the failure of an earlier attempt
                    (each / "sent.json").unlink(missing_ok=True)
                self.request(each)
            reasons = self._wait_for_progress(list(record_dirs))
        finally:
            for each in record_dirs:
                with contextlib.suppress(OSError):
                    self._get_request_path(each).unlink(missing_ok=True)
        found = {each: self._describe_missing(each, reasons.get(each, "")) for each in record_dirs}
        return {each: missing for each, missing in found.items() if missing}

    def get_mlflow_run_id(self, run_dir: Path) -> str | None:
        return self._read_state(run_dir).mlflow_run_id

    def close(self) -> None:
        """Ends the uploader that this object started as soon as it has served all requests."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        if not any(self._folder.glob("*.json")):
            try:
                self._process.wait(EXIT_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            with contextlib.suppress(OSError):
                self._remove_folder()
        self._process = None

    def _remove_folder(self) -> None:
        """Removes the empty folder, such as after a command that was refused. Raises OSError."""
        if (lock := _try_lock(self._folder)) is None:
            return
        try:
            if not any(self._folder.glob("*.json")):
                for name in ("log.txt", "lock"):
                    (self._folder / name).unlink(missing_ok=True)
                for folder in (self._folder, self._folder.parent, self._outputs):
                    folder.rmdir()  # which fails unless it is empty
        finally:
            os.close(lock)

    def _get_request_path(self, record_dir: Path) -> Path:
        return self._folder / f"{record_dir.name}.json"

    def _read_state(self, record_dir: Path) -> UploadState:
        return UploadState.read_for_uri(self._tracking.uri, record_dir)

    def _is_settled(self, record_dir: Path, state: UploadState) -> bool:
        if record_dir.parent.name == "sweeps":  # its end is sent once
            return bool(state.failure) or not sweep_record.has_unsent_end(record_dir)
        return state.gone or (bool(state.mlflow_run_id) and UploadState.is_complete(record_dir))

    def _wait_for_progress(self, pending: list[Path]) -> dict[Path, str]:
        """Returns by folder why the upload was given up; empty if it is complete."""
        is_database = database_path(self._tracking.uri) is not None
        reasons: dict[Path, str] = {}
        last_progress, last_time, restarted = None, time.monotonic(), False
        while pending:
            states = {each: self._read_state(each) for each in pending}
            progress = [
                (s.mlflow_run_id, s.events, s.metrics, len(s.problems), bool(s.failure))
                for s in states.values()
            ]
            if progress != last_progress:
                last_progress, last_time = progress, time.monotonic()
            idle = time.monotonic() - last_time
            is_connected = any(state.mlflow_run_id for state in states.values())
            is_slow_allowed = is_database or not is_connected  # MLflow may still be imported
            problem = ""
            if not _is_locked(self._folder):
                if restarted:
                    status = self._process.poll() if self._process else None
                    suffix = "" if status is None else f" with status {status}"
                    problem = f"the process that sends it ended{suffix}"
                restarted = self.start()
            elif idle > (DATABASE_CALL_TIMEOUT if is_slow_allowed else SERVER_CALL_TIMEOUT):
                problem = "it takes too long"
                if time.time() - (self._folder / "lock").stat().st_mtime > HEARTBEAT_TIMEOUT:
                    problem = "the process that sends it doesn't answer"
                    with contextlib.suppress(OSError, ValueError):
                        os.kill(int((self._folder / "lock").read_text()), signal.SIGKILL)
            for each, state in states.items():
                if self._is_settled(each, state):
                    reasons[each] = state.failure
                elif problem or (state.failure and idle > FAILURE_TIMEOUT):
                    reasons[each] = state.failure or problem
            pending = [each for each in pending if each not in reasons]
            if pending:
                time.sleep(0.05)
        return reasons

    def _describe_missing(self, record_dir: Path, reason: str) -> str:
        if record_dir.parent.name == "sweeps":
            return reason
        state = self._read_state(record_dir)
        try:
            left = state.describe_unsent(record_dir)
        except DamagedJournalError:
            left = "lines unknown"
        missing = list(state.problems)
        if left:
            sync = run_dirs.format_command("sync", self._outputs)
            missing += [
                reason or state.failure or "it was interrupted",
                left if state.gone else f"{sync} sends what is left, {left}",
            ]
        return "; ".join(missing)


def wait_for_runs(outputs: Path, sweep: str) -> dict[Path, str]:
    """As `UploadQueue.wait`, for the requested runs of a sweep that ended on this machine."""
    runs: dict[Tracking, list[Path]] = {}
    for request in sorted((outputs / ".uploads").glob("*/*.json")):
        with contextlib.suppress(OSError, ValueError, SpecError):
            content = json.loads(request.read_bytes())
            run = outputs / content.pop("record")
            tracking = Tracking(**content)
            is_local = get_queue_dir(outputs, tracking) == request.parent
            if is_local and run_dirs.read_info_file(run, "run").sweep == sweep:
                runs.setdefault(tracking, []).extend([run] * (not run_dirs.is_running(run)))
    found: dict[Path, str] = {}
    for tracking, ended in runs.items():
        with contextlib.closing(UploadQueue(outputs, tracking)) as uploads:
            found |= uploads.wait(ended)
    return found


def get_queue_dir(outputs: Path, tracking: Tracking) -> Path:
    name = f"{socket.gethostname()} {tracking.uri}"
    return outputs / ".uploads" / hashlib.sha256(name.encode()).hexdigest()[:16]


@contextlib.contextmanager
def prestart_uploader(spec: RunSpec) -> Iterator[None]:
    """Imports MLflow in the uploader, if the spec needs it, while the block imports torch."""
    components = instantiate(spec, ("tracking",))
    if spec.options["tracking"] == "none" or components.problems:
        yield
        return
    with UploadQueue(spec.output_path, components["tracking"].bind()(spec.output_path)):
        yield


def _start_uploader(folder: Path) -> subprocess.Popen[bytes] | None:
    """Returns None if one is running. It inherits the lock, and blocks SIGINT and SIGTERM, which a
    terminal sends to all processes at once."""
    if (lock := _try_lock(folder)) is None:
        return None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        environment = {k: v for k, v in os.environ.items() if k not in LAUNCH_VARIABLES}
        with open(folder / "log.txt", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "recipe", "sync", f"follow={folder}"],
                stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=(lock,),
                env=environment | {"RECIPE_NOTICE_AFTER": "0"},
            )  # fmt: skip
        os.truncate(lock, 0)
        os.pwrite(lock, str(process.pid).encode(), 0)
        return process
    finally:
        os.close(lock)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _try_lock(folder: Path) -> int | None:
    """Returns the descriptor of the folder's lock, or None if another process holds it."""
    while True:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(folder / "lock")):
                return lock
        except FileNotFoundError:  # removed by its last holder
            pass
        except BlockingIOError:
            os.close(lock)
            return None
        os.close(lock)


def _is_locked(folder: Path) -> bool:
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
