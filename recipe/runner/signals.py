"""SIGINT (Ctrl-C) and SIGTERM: their handlers, and a run that stops after the current step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from recipe.errors import TerminateInterrupt

SIGNALS = (signal.SIGINT, signal.SIGTERM)

STOP_MESSAGE = b"recipe: stopping after this step; again to stop at once\n"

received_signals: list[int] = []
"""The signals that this process received, in order. The exception that a handler raises may be
swallowed by the code that it interrupts, such as a finaliser."""


def install_signal_handlers() -> None:
    """Makes SIGINT and SIGTERM raise and be recorded; one that is ignored, as under nohup, stays
    ignored."""
    received_signals.clear()
    signal.signal(signal.SIGTERM, handle_sigterm)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, handle_sigint)


def handle_sigint(signum: int, frame: FrameType | None) -> None:
    received_signals.append(signum)
    raise KeyboardInterrupt


def handle_sigterm(signum: int, frame: FrameType | None) -> None:
    received_signals.append(signum)
    raise TerminateInterrupt


def ignore_signals() -> None:
    """For the end of the interpreter, during which Python runs no handlers."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class RunPruned(Exception):
    """Raised to end a run that a search has pruned; the message has the reason."""

    run_id: str | None = None


class GracefulStop:
    """A context in which the first signal sets `received_signal`; the second one calls the previous
    handler.

    In a thread other than the main one, which receives no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.received_signal: int | None = received_signals[0] if received_signals else None
        """Initially a signal that arrived while the run was built and whose exception was
        swallowed."""
        self._previous_handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def __enter__(self) -> GracefulStop:
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                previous = signal.getsignal(signum)
                if callable(previous):  # an ignored signal, as under nohup, stays ignored
                    self._previous_handlers[signum] = previous
                    signal.signal(signum, self._request_stop)
        return self

    def __exit__(self, *raised: object) -> None:
        for signum, previous in self._previous_handlers.items():
            signal.signal(signum, previous)

    def _request_stop(self, signum: int, frame: FrameType | None) -> None:
        if self.received_signal is not None:
            self._previous_handlers[signum](signum, frame)
        self.received_signal = signum
        # not print(), which could wait for a lock that the interrupted code holds
        os.write(2, b"\n" * os.isatty(2) + STOP_MESSAGE)

    def raise_signal(self) -> None:
        """Raises the exception of the received signal, if there is one."""
        if self.received_signal is not None:
            handlers = self._previous_handlers
            handlers.get(self.received_signal, signal.default_int_handler)(
                self.received_signal, None
            )
