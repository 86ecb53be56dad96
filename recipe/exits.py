"""How a command ends: the exit status and the lines that are printed of errors and signals."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from recipe.errors import OthersGone, RecipeError
from recipe.plain import one_line


class Terminated(KeyboardInterrupt):
    """SIGTERM, ending a run in the same way as Ctrl-C."""


class OutputClosed(KeyboardInterrupt):
    """Whoever read the output of a sweep is gone, such as head; ends it in the same way."""


def is_output_closed(error: BaseException) -> bool:
    """Whether it was raised because nobody reads the output any more; rich makes a SystemExit of
    that."""
    return isinstance(error, BrokenPipeError) or (
        isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError)
    )


def discard_output() -> None:
    """What is printed from now on, and what is still buffered, goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def ended(work: Callable[[], int], *, tell: bool = True) -> int:
    """The exit status of what was called; how it ended is told, unless another process tells."""
    said: list[str] = []
    try:
        return work()
    except RecipeError as error:
        if signalled := _cause(error):
            said, status = _stopped(signalled)
            return status
        said = error.problems
        return error.exit_status
    except OthersGone as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, which ends this one as well
        said = [str(error)]
        return 1
    except KeyboardInterrupt as stopped:
        said, status = _stopped(stopped)
        return status
    except BrokenPipeError:  # whoever read our output, such as head, has had enough
        discard_output()
        return 1
    except Exception as error:
        if (signalled := _cause(error)) is None:
            raise
        said, status = _stopped(signalled)
        return status
    finally:
        for line in said if tell else ():
            print(f"recipe: {one_line(line)}", file=sys.stderr)


def _stopped(by: KeyboardInterrupt) -> tuple[list[str], int]:
    """What is said of a signal that ended a command, and the exit status."""
    if isinstance(by, OutputClosed):
        return ["nobody reads the output any more; the same command resumes the sweep"], 1
    terminated = isinstance(by, Terminated)
    said = ["terminated" if terminated else "interrupted"]
    return said, 128 + (signal.SIGTERM if terminated else signal.SIGINT)


def _cause(error: BaseException) -> KeyboardInterrupt | None:
    """The signal that came first, if any: what it interrupts, such as Hydra's composing, may then
    fail at tidying up."""
    while (before := error.__context__) is not None:
        if isinstance(before, KeyboardInterrupt):
            return before
        error = before
    return None


def terminate(signum: int, frame: FrameType | None) -> None:
    """The handler of SIGTERM."""
    raise Terminated
