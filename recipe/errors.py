"""What can go wrong, as a tree:

RecipeError              printed as one line per problem, without a traceback; exit status 1
  SpecError              the spec, a setting or an argument is wrong; exit status 2
    SettingError         the value of a setting breaks a rule
  DataError              samples can't be read while training
  NonFiniteError         a loss, gradient or weight is NaN or infinite (training/nonfinite.py)
  AuditError             a trick didn't do what it says (audit/)
  OutputError            standard output can't be written, such as to a file on a full disk
KeyboardInterrupt        a run is ended from outside
  TerminateInterrupt     SIGTERM
  OutputClosedInterrupt  the reader of a sweep's output, such as head, has closed it
  PeerProcessLost        a process that shared the run is gone; started again, the run resumes
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from recipe.formatting import escape_unprintable_lines, format_value, mask_addresses

DEBUG_VARIABLE = "RECIPE_DEBUG"

DEBUG_HINT = f"{DEBUG_VARIABLE}=1 prints the traceback"


def first_line(error: BaseException) -> str:
    """Returns the first line of the message; empty if there is none, or if `str` raises."""
    return next(iter(_safe_message(error).splitlines()), "")


def _safe_message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # raised by the exception's own class
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
    """One or more problems that the user can fix, one line each."""

    exit_status = 1

    def __init__(self, problems: str | Iterable[str]) -> None:
        given = [problems] if isinstance(problems, str) else problems
        # arguments may contain line breaks, and addresses passwords
        lines = (mask_addresses(" ".join(problem.splitlines())) for problem in given)
        self.problems = list(dict.fromkeys(lines))
        super().__init__("\n".join(self.problems))


class SpecError(RecipeError):
    exit_status = 2


class SettingError(SpecError, ValueError):
    """The value of a setting breaks a rule: `key rule, got value; way_out`.

    A ValueError too, so that components can raise it from where a ValueError is expected.
    """

    def __init__(self, key: str, rule: str, value: object, way_out: str) -> None:
        self.key, self.rule, self.value, self.way_out = key, rule, value, way_out
        super().__init__(f"{key} {rule}, got {format_value(value)}; {way_out}")

    def __reduce__(self) -> tuple[type[SettingError], tuple[str, str, object, str]]:
        return SettingError, (self.key, self.rule, self.value, self.way_out)


class DataError(RecipeError, ValueError):
    """A ValueError too, which the check of samples before the first step collects."""


class OutputError(RecipeError):
    pass


class PeerProcessLost(KeyboardInterrupt):
    pass


class TerminateInterrupt(KeyboardInterrupt):
    pass


class OutputClosedInterrupt(KeyboardInterrupt):
    pass


def is_output_closed(error: BaseException) -> bool:
    """Whether output failed: its reader is gone, for which rich raises SystemExit, or its disk is
    full."""
    return isinstance(error, (BrokenPipeError, OutputError)) or (
        isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError)
    )


def find_interrupt(error: BaseException) -> KeyboardInterrupt | None:
    """Returns the signal during whose handling an error was raised, such as by Hydra's clean-up."""
    while (before := error.__context__) is not None:
        if isinstance(before, KeyboardInterrupt):
            return before
        error = before
    return None


class Problems(list[str]):
    """Problems found so far, so that all of them can be reported at once."""

    @contextmanager
    def collect(self, where: str) -> Iterator[None]:
        """Collects a ValueError, ImportError or SpecError of the block; `where` is put before a
        message that does not begin with its key."""
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
        """Collects whatever the code of a component raises, SystemExit included."""
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
        """Puts the dotted key before the message of a ValueError that lacks it."""
        try:
            yield
        except ValueError as error:
            message = str(error)
            raise ValueError(message if message.startswith(key) else f"{key}: {message}") from error

    def raise_if_any(self) -> None:
        if self:
            raise SpecError(self)
