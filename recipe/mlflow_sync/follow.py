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
from recipe.mlflow_sync.client import Gone
from recipe.mlflow_sync.upload import Sending

SHARE = 1 / 20
"""Part of the time that the thread computes: where all cores train, that is taken from them.
What MLflow can't be given so quickly it gets at the end."""

BURST = 0.5
"""Seconds of computing beyond that: what a run says of itself at its start."""

SHORTEST_REST, LONGEST_REST = 1.0, 60.0
"""Seconds between two batches."""

SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 10.0
"""Seconds after a failure; after each further one twice as long."""

LAST, LAST_HERE = 15.0, 60.0
"""Seconds without progress after which the end of a run isn't waited for any longer, while a call
is under way: to a server, which may be frozen; to a database, which is only slow where others
compute, too."""


@dataclass(frozen=True)
class Ended:
    """How far it came."""

    refused: list[str]
    """What MLflow would not take."""
    left: str
    """What it lacks besides; empty: nothing."""
    reason: str
    """Why it lacks that."""
    gone: bool
    """It was deleted in MLflow, and nothing will be sent any more."""


class Feed:
    """One run in MLflow, made and filled in the background."""

    def __init__(self, run: Path, tracking: Tracking) -> None:
        self._sending = Sending(run, tracking)
        self._last = LAST_HERE if database_path(tracking.uri) else LAST
        self._problem: str | None = None
        """Why the last call failed."""
        self._over = threading.Event()
        """The thread has nothing more to do."""
        self._wake = threading.Event()
        self._closing = self._given_up = self._gone = False
        self._progress = time.monotonic()
        self._attempts = 0
        """Calls that failed since the run ended."""
        self._thread = threading.Thread(target=self._run, name="mlflow-feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self, patience: float) -> Ended:
        """Waits until all is sent, or for so many seconds without progress."""
        began = time.monotonic()
        self._closing = True
        self._wake.set()
        while not self._over.wait(0.05):
            idle = time.monotonic() - self._progress
            waited = time.monotonic() - max(began, self._progress)
            if (idle > patience and self._attempts) or waited > self._last:
                break
        self.leave()
        sent = self._sending.sent
        left = sent.left(self._sending.run)
        return Ended(list(sent.problems), left, self._problem or "it takes too long", self._gone)

    def leave(self) -> None:
        """Whatever is left is left; the thread ends with its current call."""
        self._given_up = True
        self._wake.set()

    def _run(self) -> None:
        try:
            while not self._given_up:
                try:
                    with self._sending.sole():
                        return self._send()
                except Timeout:  # `sync` may be at it
                    self._problem = "another process is sending it"
                    self._rest(SHORTEST_PAUSE)
        except Gone as error:
            self._problem, self._gone = str(error), True
        finally:
            self._over.set()

    def _send(self) -> None:
        pause, since = SHORTEST_PAUSE, None
        while not self._given_up:
            try:
                self._sending.connect()
                since = since or (time.monotonic(), time.thread_time())
                ended = self._closing  # asked first, as the end may be written at any moment
                more = self._sending.piece()
            except Gone:
                raise
            except Exception as error:  # whatever MLflow raises, training goes on
                self._problem = client.reason(error)
                self._attempts += self._closing
                client.give_more_time(error)
                self._rest(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            self._progress, self._problem, pause = time.monotonic(), None, SHORTEST_PAUSE
            if ended and not more:
                return
            if not self._closing:
                passed, computed = time.monotonic() - since[0], time.thread_time() - since[1]
                owed = (computed - BURST) / SHARE - passed
                behind = more and not self._sending.at_its_heels
                self._rest(min(max(owed, 0 if behind else SHORTEST_REST), LONGEST_REST))

    def _rest(self, seconds: float) -> None:
        """Until then, or until the run ends; a run that has ended waits a second at most."""
        if self._closing:
            time.sleep(min(seconds, 1.0))
        else:
            self._wake.wait(seconds)
