"""MLflow fed from a run's journals by one thread, in the process of recipe.mlflow_sync.worker.

A server that is down, frozen, failing or slow is tried again for as long as the run goes on.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from recipe.components.tracking import Tracking
from recipe.components.tracking.local import database_path
from recipe.mlflow_sync import client
from recipe.mlflow_sync.client import RunDeletedError
from recipe.mlflow_sync.upload import RunUploader

MAX_CPU_SHARE = 1 / 20
"""Part of the time that the thread computes: where all cores train, that is taken from them.
What MLflow can't be given so quickly it gets at the end."""

CPU_BURST_SECONDS = 0.5
"""Seconds of computing beyond that: what a run says of itself at its start."""

MIN_BATCH_INTERVAL, MAX_BATCH_INTERVAL = 1.0, 60.0
"""Seconds between two batches."""

MIN_RETRY_DELAY, MAX_RETRY_DELAY = 1.0, 10.0
"""Seconds after a failure; after each further one twice as long."""

SERVER_FINISH_TIMEOUT, DATABASE_FINISH_TIMEOUT = 15.0, 60.0
"""Seconds without progress after which the end of a run isn't waited for any longer, while a call
is under way: to a server, which may be frozen; to a database, which is only slow where others
compute, too."""


@dataclass(frozen=True)
class UploadResult:
    """How far it came."""

    refused: list[str]
    """What MLflow would not take."""
    left: str
    """What it lacks besides; empty: nothing."""
    reason: str
    """Why it lacks that."""
    gone: bool
    """It was deleted in MLflow, and nothing will be sent any more."""


class UploadThread:
    """One run in MLflow, made and filled in the background."""

    def __init__(self, run_dir: Path, tracking: Tracking) -> None:
        self._uploader = RunUploader(run_dir, tracking)
        self._finish_timeout = (
            DATABASE_FINISH_TIMEOUT if database_path(tracking.uri) else SERVER_FINISH_TIMEOUT
        )
        self._problem: str | None = None
        """Why the last call failed."""
        self._finished = threading.Event()
        """The thread has nothing more to do."""
        self._wake = threading.Event()
        self._is_closing = self._is_abandoned = self._is_deleted = False
        self._last_progress_time = time.monotonic()
        self._attempts = 0
        """Calls that failed since the run ended."""
        self._thread = threading.Thread(target=self._run, name="mlflow-feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self, timeout: float) -> UploadResult:
        """Waits until all is sent, or for so many seconds without progress."""
        began = time.monotonic()
        self._is_closing = True
        self._wake.set()
        while not self._finished.wait(0.05):
            idle = time.monotonic() - self._last_progress_time
            waited = time.monotonic() - max(began, self._last_progress_time)
            if (idle > timeout and self._attempts) or waited > self._finish_timeout:
                break
        self.abandon()
        sent = self._uploader.state
        left = sent.describe_unsent(self._uploader.run_dir)
        return UploadResult(
            list(sent.problems), left, self._problem or "it takes too long", self._is_deleted
        )

    def abandon(self) -> None:
        """Whatever is left is left; the thread ends with its current call."""
        self._is_abandoned = True
        self._wake.set()

    def _run(self) -> None:
        try:
            while not self._is_abandoned:
                try:
                    with self._uploader.acquire_lock():
                        return self._follow_journals()
                except Timeout:  # `sync` may be at it
                    self._problem = "another process is sending it"
                    self._sleep(MIN_RETRY_DELAY)
        except RunDeletedError as error:
            self._problem, self._is_deleted = str(error), True
        finally:
            self._finished.set()

    def _follow_journals(self) -> None:
        pause, since = MIN_RETRY_DELAY, None
        while not self._is_abandoned:
            try:
                self._uploader.connect()
                since = since or (time.monotonic(), time.thread_time())
                ended = self._is_closing  # asked first, as the end may be written at any moment
                more = self._uploader.send_chunk()
            except RunDeletedError:
                raise
            except Exception as error:  # whatever MLflow raises, training goes on
                self._problem = client.describe_error(error)
                self._attempts += self._is_closing
                client.extend_timeout(error)
                self._sleep(pause)
                pause = min(2 * pause, MAX_RETRY_DELAY)
                continue
            self._last_progress_time, self._problem, pause = time.monotonic(), None, MIN_RETRY_DELAY
            if ended and not more:
                return
            if not self._is_closing:
                passed, computed = time.monotonic() - since[0], time.thread_time() - since[1]
                owed = (computed - CPU_BURST_SECONDS) / MAX_CPU_SHARE - passed
                behind = more and not self._uploader.is_caught_up
                self._sleep(min(max(owed, 0 if behind else MIN_BATCH_INTERVAL), MAX_BATCH_INTERVAL))

    def _sleep(self, seconds: float) -> None:
        """Until then, or until the run ends; a run that has ended waits a second at most."""
        if self._is_closing:
            time.sleep(min(seconds, 1.0))
        else:
            self._wake.wait(seconds)
