"""The exit status of a command, and the messages for the errors and signals that ended it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
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
from recipe.runner.signals import SIGNALS, received_signals


def discard_output() -> None:
    """Redirects standard output to the null device, including what is still buffered."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_process(status: int) -> NoReturn:
    """Ends the process with this status, even if signals arrive while it exits."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(status))
    for stream in (sys.stdout, sys.stderr):  # os._exit would not flush them
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    sys.exit(status)


def run_command(command: Callable[[], int], *, print_errors: bool = True) -> int:
    """Calls `command` and returns the exit status; prints the errors and signals that end it."""
    messages: list[str] = []
    try:
        status = command()
        output.print_text("")  # flushes
        if status == 0 and received_signals:  # whose exception was swallowed
            is_sigterm = received_signals[0] == signal.SIGTERM
            kind = TerminateInterrupt if is_sigterm else KeyboardInterrupt
            messages, status = _describe_interrupt(kind())
        return status
    except RecipeError as error:
        if isinstance(error, OutputError):
            discard_output()
        if signalled := find_interrupt(error):
            messages, status = _describe_interrupt(signalled)
            return status
        if error.__cause__ is not None:
            print_debug_traceback(error)
        messages = error.problems
        return error.exit_status
    except PeerProcessLost as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it to all processes
        messages = [str(error)]
        return 1
    except KeyboardInterrupt as stopped:
        messages, status = _describe_interrupt(stopped)
        return status
    except BrokenPipeError:  # the reader of the output, such as head, has exited
        discard_output()
        return 1
    except Exception as error:
        if (signalled := find_interrupt(error)) is not None:
            messages, status = _describe_interrupt(signalled)
            return status
        if not isinstance(error, OSError) or not (
            error.filename or atomic_write.is_disk_full(error)
        ):
            raise
        messages = [_describe_os_error(error)]
        return 1
    finally:
        received_signals.clear()
        for line in messages if print_errors else ():
            output.print_error(line)


def _describe_os_error(error: OSError) -> str:
    way_out = "make room" if atomic_write.is_disk_full(error) else "fix that"
    return f"{error.filename or 'a file'}: {error.strerror}; {way_out}, then start it again"


def _describe_interrupt(interrupt: KeyboardInterrupt) -> tuple[list[str], int]:
    """The messages for a signal that ended a command, and the exit status."""
    if isinstance(interrupt, OutputClosedInterrupt):
        return ["the reader of the output has exited; the same command resumes the sweep"], 1
    message = "terminated" if isinstance(interrupt, TerminateInterrupt) else "interrupted"
    return [message], get_signal_exit_status(interrupt)


def get_signal_exit_status(interrupt: KeyboardInterrupt) -> int:
    """143 for SIGTERM, else 130."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, TerminateInterrupt) else signal.SIGINT)
