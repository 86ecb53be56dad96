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

SAID = b"recipe: stopping after this step; again to stop at once\n"


class Pruned(Exception):
    """A search wants no more of the run; says why."""

    run: str | None = None
    """Its id."""


class Stopping:
    """Within the `with`, the first signal only asks; a second one does what it always did.

    In a thread other than the main one, where signals never arrive, it does nothing.
    """

    def __init__(self) -> None:
        self.asked: int | None = exit_status.arrived[0] if exit_status.arrived else None
        """The signal; from the beginning one that came while the run was being built, and whose
        exception was swallowed by what it interrupted."""
        self._usual: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                usual = signal.getsignal(signum)
                if callable(usual):  # one that is ignored, as under nohup, stays so
                    self._usual[signum] = usual
                    signal.signal(signum, self._ask)
        return self

    def __exit__(self, *raised: object) -> None:
        for signum, usual in self._usual.items():
            signal.signal(signum, usual)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            self._usual[signum](signum, frame)
        self.asked = signum
        # printing could wait for the line that was interrupted, which may be the bar's
        os.write(2, b"\n" * os.isatty(2) + SAID)

    def obey(self) -> None:
        """Raises what the signal that came raises otherwise."""
        if self.asked is not None:
            usual = self._usual.get(self.asked) or signal.default_int_handler
            usual(self.asked, None)
