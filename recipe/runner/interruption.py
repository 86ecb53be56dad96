"""What ends a run before its last epoch: Ctrl-C and SIGTERM, for which the step that is under way
is finished first, and a search that has seen enough of it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from recipe.runner import exit_status

SIGNALS = (signal.SIGINT, signal.SIGTERM)

STOP_MESSAGE = b"recipe: stopping after this step; again to stop at once\n"


class RunPruned(Exception):
    """A search wants no more of the run; says why."""

    run_id: str | None = None
    """Its id."""


class GracefulStop:
    """Within the `with`, the first signal only asks; a second one does what it always did.

    In a thread other than the main one, where signals never arrive, it does nothing.
    """

    def __init__(self) -> None:
        self.received_signal: int | None = (
            exit_status.received_signals[0] if exit_status.received_signals else None
        )
        """The signal; from the beginning one that came while the run was being built, and whose
        exception was swallowed by what it interrupted."""
        self._previous_handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def __enter__(self) -> GracefulStop:
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                usual = signal.getsignal(signum)
                if callable(usual):  # one that is ignored, as under nohup, stays so
                    self._previous_handlers[signum] = usual
                    signal.signal(signum, self._request_stop)
        return self

    def __exit__(self, *raised: object) -> None:
        for signum, usual in self._previous_handlers.items():
            signal.signal(signum, usual)

    def _request_stop(self, signum: int, frame: FrameType | None) -> None:
        if self.received_signal is not None:
            self._previous_handlers[signum](signum, frame)
        self.received_signal = signum
        # printing could wait for the line that was interrupted, which may be the bar's
        os.write(2, b"\n" * os.isatty(2) + STOP_MESSAGE)

    def raise_signal(self) -> None:
        """Raises what the signal that came raises otherwise."""
        if self.received_signal is not None:
            usual = self._previous_handlers.get(self.received_signal) or signal.default_int_handler
            usual(self.received_signal, None)
