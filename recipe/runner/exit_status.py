"""How a command ends: the exit status and the lines that are printed of errors and signals."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from recipe import atomic_write, output
from recipe.errors import (
    OutputClosedInterrupt,
    OutputError,
    PeerProcessLost,
    RecipeError,
    TerminateInterrupt,
    find_interrupt,
    print_debug_traceback,
)


def discard_output() -> None:
    """Nothing more is written, not even what is buffered when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


received_signals: list[int] = []
"""The signals that this process was sent, in order: whatever runs when one comes, such as a
finaliser, may swallow the exception that it raises."""


def install_signal_handlers() -> None:
    """From here on Ctrl-C and SIGTERM are remembered, and raise as they do; one that is ignored, as
    under nohup, stays so."""
    received_signals.clear()
    signal.signal(signal.SIGTERM, handle_sigterm)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, handle_sigint)


def exit_process(status: int) -> NoReturn:
    """Ends the process with this status, whatever signals come while it tidies up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(status))
    for stream in (sys.stdout, sys.stderr):  # a signal leaves no time for it
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    sys.exit(status)


def ignore_signals() -> None:
    """When nothing is left but the interpreter's own end, where Python runs no handler."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def run_command(command: Callable[[], int], *, print_errors: bool = True) -> int:
    """The exit status of what was called; how it ended is told, unless another process tells."""
    said: list[str] = []
    try:
        status = command()
        output.print_text("")  # what is buffered
        if status == 0 and received_signals:  # nobody obeyed it
            by = (
                TerminateInterrupt()
                if received_signals[0] == signal.SIGTERM
                else KeyboardInterrupt()
            )
            said, status = _describe_interrupt(by)
        return status
    except RecipeError as error:
        if isinstance(error, OutputError):
            discard_output()
        if signalled := find_interrupt(error):
            said, status = _describe_interrupt(signalled)
            return status
        if error.__cause__ is not None:
            print_debug_traceback(error)
        said = error.problems
        return error.exit_status
    except PeerProcessLost as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, which ends this one as well
        said = [str(error)]
        return 1
    except KeyboardInterrupt as stopped:
        said, status = _describe_interrupt(stopped)
        return status
    except BrokenPipeError:  # whoever read our output, such as head, has had enough
        discard_output()
        return 1
    except Exception as error:
        if (signalled := find_interrupt(error)) is not None:
            said, status = _describe_interrupt(signalled)
            return status
        if not isinstance(error, OSError) or not (
            error.filename or atomic_write.is_disk_full(error)
        ):
            raise
        said = [_describe_os_error(error)]
        return 1
    finally:
        received_signals.clear()
        for line in said if print_errors else ():
            output.print_error(line)


def _describe_os_error(error: OSError) -> str:
    """What to say of a file that can't be read or written."""
    way_out = "make room" if atomic_write.is_disk_full(error) else "see to that"
    return f"{error.filename or 'a file'}: {error.strerror}; {way_out}, then start it again"


def _describe_interrupt(interrupt: KeyboardInterrupt) -> tuple[list[str], int]:
    """What is said of a signal that ended a command, and the exit status."""
    if isinstance(interrupt, OutputClosedInterrupt):
        return ["nobody reads the output any more; the same command resumes the sweep"], 1
    return [
        "terminated" if isinstance(interrupt, TerminateInterrupt) else "interrupted"
    ], get_signal_exit_status(interrupt)


def get_signal_exit_status(interrupt: KeyboardInterrupt) -> int:
    """The exit status of a command that a signal ended: 143 for SIGTERM, else 130."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, TerminateInterrupt) else signal.SIGINT)


def handle_sigint(signum: int, frame: FrameType | None) -> None:
    """The handler of SIGINT."""
    received_signals.append(signum)
    raise KeyboardInterrupt


def handle_sigterm(signum: int, frame: FrameType | None) -> None:
    """The handler of SIGTERM."""
    received_signals.append(signum)
    raise TerminateInterrupt
