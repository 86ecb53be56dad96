"""The process that sends records to MLflow: `python -m recipe sync follow=<queue folder>`.

It serves the requests of recipe.mlflow_sync.upload_queue, each in a thread: calls to a server that
is down, frozen, failing or slow are retried until the run ends.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from pathlib import Path

from filelock import Timeout

from recipe.components.tracking import Tracking
from recipe.mlflow_sync import client, parent_run
from recipe.mlflow_sync.client import RunDeletedError
from recipe.mlflow_sync.upload import RunUploader
from recipe.mlflow_sync.upload_queue import FAILURE_TIMEOUT
from recipe.store import journal, run_dirs
from recipe.store.upload_state import UploadState

MAX_CPU_SHARE = 1 / 20
"""Share of the time that a thread computes while its run trains on all cores."""

CPU_BURST_SECONDS = 0.5
"""CPU time beyond that share, for the records of a run's start."""

MIN_BATCH_INTERVAL, MAX_BATCH_INTERVAL = 1.0, 60.0

MIN_RETRY_DELAY, MAX_RETRY_DELAY = 1.0, 10.0
"""Seconds after a failure; they double with each further one."""

POLL_SECONDS = 0.1


def serve_requests(folder: Path) -> None:
    """Serves requests until standard input is closed and every request is served or abandoned.

    Ends the process: a call to a server that hangs is not waited for.
    """
    gc.set_threshold(100_000)  # MLflow's many objects stay
    threading.Thread(target=client.import_mlflow, daemon=True).start()
    is_released = threading.Event()
    threading.Thread(target=_wait_for_stdin_end, args=(is_released,), daemon=True).start()
    served: dict[str, RequestThread] = {}
    while True:
        try:
            os.utime(folder / "lock")  # the heartbeat
        except OSError:  # the outputs were moved
            os._exit(0)
        is_last_round = is_released.is_set()
        for path in folder.glob("*.json"):
            known = served.get(path.name)
            if known is None or not (known.is_alive() or known.is_current()):
                served[path.name] = RequestThread(path)
                served[path.name].start()
        if is_last_round and not any(each.is_alive() for each in served.values()):
            os._exit(0)
        time.sleep(POLL_SECONDS) if is_last_round else is_released.wait(POLL_SECONDS)


def _wait_for_stdin_end(is_released: threading.Event) -> None:
    sys.stdin.buffer.read()
    is_released.set()


class RequestThread(threading.Thread):
    """Serves one request; removes it when MLflow has everything."""

    def __init__(self, request: Path) -> None:
        super().__init__(name=request.stem, daemon=True)
        self._request, self._version = request, _get_version(request)
        self._progress_time = time.monotonic()

    def is_current(self) -> bool:
        """Whether the request is still the one that this thread served."""
        return _get_version(self._request) == self._version

    def run(self) -> None:
        try:
            content = json.loads(self._request.read_bytes())
        except (OSError, ValueError):  # withdrawn
            return
        record_dir = self._request.parent.parent.parent / content.pop("record")
        tracking = Tracking(**content)
        if record_dir.parent.name == "sweeps":
            is_complete = _send_sweep(record_dir, tracking)
        else:
            is_complete = self._send_run(RunUploader(record_dir, tracking))
        if is_complete:
            self._request.unlink(missing_ok=True)

    def _send_run(self, uploader: RunUploader) -> bool:
        """Sends a run's journals to their end. Returns False if something was rejected, the run
        was deleted in MLflow, or the server was given up."""
        while self._request.exists():
            try:
                with uploader.acquire_lock():
                    problems = len(uploader.state.problems)
                    is_complete = self._follow_journals(uploader)
                    return is_complete and len(uploader.state.problems) == problems
            except Timeout:
                if self._is_given_up(uploader.run_dir):
                    break
                time.sleep(MIN_RETRY_DELAY)
            except RunDeletedError:
                break
            except OSError as error:  # the folder can't be written, or was removed
                uploader.set_failure(str(error))
                break
        return False

    def _follow_journals(self, uploader: RunUploader) -> bool:
        delay, since, is_stale = MIN_RETRY_DELAY, None, False
        while self._request.exists():
            is_ended = is_stale or _has_ended(uploader.run_dir)
            try:
                more = uploader.send_chunk()
            except RunDeletedError:
                raise
            except Exception as error:  # whatever MLflow raises
                uploader.set_failure(client.describe_error(error))
                client.extend_timeout(error)
                if self._is_given_up(uploader.run_dir):
                    break
                self._sleep(delay, uploader.run_dir, is_ended)
                delay = min(2 * delay, MAX_RETRY_DELAY)
                continue
            since = since or (time.monotonic(), time.thread_time())
            self._progress_time, delay = time.monotonic(), MIN_RETRY_DELAY
            uploader.set_failure("")
            if is_ended and not more:
                return True
            if not is_ended:
                passed, computed = time.monotonic() - since[0], time.thread_time() - since[1]
                owed = (computed - CPU_BURST_SECONDS) / MAX_CPU_SHARE - passed
                is_behind = more and not uploader.is_caught_up
                pause = max(owed, 0 if is_behind else MIN_BATCH_INTERVAL)
                self._sleep(min(pause, MAX_BATCH_INTERVAL), uploader.run_dir, is_ended)
                is_stale = not more and not run_dirs.is_running(uploader.run_dir)
        return False

    def _is_given_up(self, run_dir: Path) -> bool:
        """Whether the run has ended, and the server has failed for FAILURE_TIMEOUT."""
        idle = time.monotonic() - self._progress_time
        return idle > FAILURE_TIMEOUT and not run_dirs.is_running(run_dir)

    def _sleep(self, seconds: float, run_dir: Path, is_ended: bool) -> None:
        """Sleeps until the run ends; for a second at most if it has ended."""
        end = time.monotonic() + (min(seconds, 1.0) if is_ended else seconds)
        while time.monotonic() < end and self._request.exists():
            if not is_ended and _has_ended(run_dir):
                return
            time.sleep(min(POLL_SECONDS, max(0.0, end - time.monotonic())))


def _has_ended(run_dir: Path) -> bool:
    return (journal.read_last_line(run_dir / "events.jsonl") or {}).get("kind") == "end"


def _send_sweep(sweep_dir: Path, tracking: Tracking) -> bool:
    failure = parent_run.send_sweep_end(tracking, sweep_dir.parent.parent, sweep_dir)
    if failure:
        UploadState(tracking.uri, failure=failure).write(sweep_dir)
    else:
        (sweep_dir / "sent.json").unlink(missing_ok=True)
    return not failure


def _get_version(request: Path) -> int:
    try:
        return request.stat().st_mtime_ns
    except OSError:
        return 0
