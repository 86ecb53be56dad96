"""What can go wrong, as a tree:

RecipeError         shown as one line per problem, no traceback; exit status 1
  SpecError         the spec, a setting or an argument is wrong; found before any run; exit status 2
  DataError         samples can't be read; found while training, where it couldn't be before
  NonFinite         a loss, gradient or weight is NaN or infinite (nonfinite.py)
  BrokenPromise     a trick didn't do what it says (audit/)
  OutputError       standard output can't be written, such as a file on a full disk
KeyboardInterrupt   a run that is ended from outside
  OthersGone        processes that shared the run are gone; it goes on when it is started again
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from recipe.formatting import escape_unprintable_lines, mask_addresses

DEBUG_VARIABLE = "RECIPE_DEBUG"
"""The variable of the environment with which tracebacks are printed."""

DEBUG_HINT = f"{DEBUG_VARIABLE}=1 prints the traceback"


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; empty if it has none, or raises while giving it."""
    return next(iter(_safe_message(error).splitlines()), "")


def _safe_message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # out of the code of whoever wrote the exception's class
        return ""


def describe_exception(error: BaseException) -> str:
    """The type of an exception and the first line of its message."""
    message = first_line(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def print_debug_traceback(error: BaseException) -> None:
    """Prints the traceback of an exception that is reported in a line, if RECIPE_DEBUG is set."""
    if os.environ.get(DEBUG_VARIABLE):
        sys.stderr.write(escape_unprintable_lines("".join(traceback.format_exception(error))))
        sys.stderr.flush()


class RecipeError(Exception):
    """One or more problems that the user can mend, one line each."""

    exit_status = 1

    def __init__(self, problems: str | Iterable[str]) -> None:
        given = [problems] if isinstance(problems, str) else problems
        # what was typed may hold line breaks, and an address a password
        lines = (mask_addresses(" ".join(problem.splitlines())) for problem in given)
        self.problems = list(dict.fromkeys(lines))
        super().__init__("\n".join(self.problems))


class SpecError(RecipeError):
    exit_status = 2


class DataError(RecipeError, ValueError):
    """A ValueError too, as a check that reads samples before the first step collects those."""


class OutputError(RecipeError):
    """Nobody sees what is printed; a run is stopped, and can be resumed."""


class PeerProcessLost(KeyboardInterrupt):
    """No fault of this process, and nobody is there to go on with."""


class TerminateInterrupt(KeyboardInterrupt):
    """SIGTERM, ending a run in the same way as Ctrl-C."""


class OutputClosedInterrupt(KeyboardInterrupt):
    """Whoever read the output of a sweep is gone, such as head; ends it in the same way."""


def is_output_closed(error: BaseException) -> bool:
    """Whether it was raised because nobody reads the output any more, of which rich makes a
    SystemExit, or because its disk is full."""
    return isinstance(error, (BrokenPipeError, OutputError)) or (
        isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError)
    )


def find_interrupt(error: BaseException) -> KeyboardInterrupt | None:
    """The signal that an error comes from, if any: what it interrupts, such as Hydra's composing,
    may then fail at tidying up."""
    while (before := error.__context__) is not None:
        if isinstance(before, KeyboardInterrupt):
            return before
        error = before
    return None


class Problems(list[str]):
    """Problems found so far, so that all of them can be reported at once."""

    @contextmanager
    def collect(self, where: str) -> Iterator[None]:
        """Turns a ValueError or SpecError of the block into problems; `where` heads a message
        that does not begin with a dotted key itself."""
        try:
            yield
        except SpecError as error:
            self.extend(error.problems)
        except (ValueError, ImportError) as error:
            print_debug_traceback(error)
            message = (
                " ".join(_safe_message(error).split()) or f"raised {describe_exception(error)}"
            )
            key = where.partition("=")[0].partition(".")[0]
            self.append(message if message.startswith(key) else f"{where}: {message}")

    @contextmanager
    def collect_component_errors(self, choice: str) -> Iterator[None]:
        """As `collect`, for the code of a component: whatever it raises becomes a problem, an exit
        too."""
        with self.collect(choice):
            try:
                yield
            except (Exception, SystemExit) as error:
                if is_output_closed(error) or isinstance(error, RecipeError):
                    raise
                if signalled := find_interrupt(error):
                    raise signalled from None
                if isinstance(error, (ValueError, ImportError)):
                    raise
                raise ValueError(f"raised {describe_exception(error)}; {DEBUG_HINT}") from error

    @staticmethod
    @contextmanager
    def prefix_key(key: str) -> Iterator[None]:
        """Puts the dotted key in front of a ValueError's message that lacks it."""
        try:
            yield
        except ValueError as error:
            message = str(error)
            raise ValueError(message if message.startswith(key) else f"{key}: {message}") from error

    def raise_if_any(self) -> None:
        if self:
            raise SpecError(self)
