"""Standard output and error: with `recipe.runner.console`, the only way to print.

What is printed is escaped, so that no name, path or message controls the terminal; a character that
the stream's encoding lacks is replaced. If nothing was printed for a while, a line on standard
error names the current task.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import sysconfig
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from recipe.errors import OutputError, SpecError
from recipe.formatting import escape_unprintable, escape_unprintable_lines

NOTICE_DELAY_VARIABLE = "RECIPE_NOTICE_AFTER"
"""Seconds without output before the current task is printed; 0 for never."""

DEFAULT_NOTICE_DELAY = 2.0

LIBRARY_DIRS = ("site-packages", "dist-packages")


def configure_streams() -> None:
    """Sets up the encoding errors of the streams, and which warnings are printed."""
    if sys.stdout is None:  # it was closed by whoever started the process
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (until the end)
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors=errors)
    if any(option.startswith("e") for option in sys.warnoptions):
        warnings.resetwarnings()  # a warning that is raised ends the import of a library
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)  # as Python itself does
    os.environ["PYTHONWARNINGS"] = "ignore"  # in the uploader and in MLflow's server
    warnings.showwarning = _show_warning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Prints a warning about the user's code; those of libraries are dropped."""
    path = Path(filename)
    of_library = (
        path.name == "sys"
        or path.name.startswith("<")
        or not {*LIBRARY_DIRS}.isdisjoint(path.parts)
        or path.is_relative_to(sysconfig.get_path("stdlib"))
        or path.is_relative_to(Path(__file__).parent)
    )
    if not of_library:
        print_error(f"{filename}:{lineno}: {category.__name__}: {' '.join(str(message).split())}")


def silence_font_cache_log() -> None:
    """Drops the line that matplotlib logs when building its font cache takes long."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def print_error(line: str) -> None:
    """Prints a line on standard error; does nothing if that can't be written."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"recipe: {escape_unprintable(line)}", file=sys.stderr, flush=True)
    clear_current_task()


def print_text(text: str, stream: TextIO | None = None) -> None:
    """Writes to standard output unless another stream is given. Raises OutputError."""
    stream = stream or sys.stdout
    with wrap_write_errors():
        stream.write(escape_unprintable_lines(text))
        stream.flush()
    clear_current_task()


@contextlib.contextmanager
def capture_stdout() -> Iterator[None]:
    """Holds back what a library prints in the block, and prints it escaped at the end."""
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            yield
    finally:
        print_text(text.getvalue())


@contextlib.contextmanager
def wrap_write_errors() -> Iterator[None]:
    """Turns an OSError of the block into an OutputError, except for a closed pipe."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"the output can't be written: {error.strerror}") from error


# A notice of the current task.


class _CurrentTask:
    name: str | None = None
    last_output_time = 0.0


def set_current_task(name: str) -> None:
    """Names what is done until something is printed."""
    _CurrentTask.name = name


def clear_current_task() -> None:
    """Resets the delay, as something was printed."""
    _CurrentTask.name, _CurrentTask.last_output_time = None, time.monotonic()


def start_task_notices() -> None:
    """Starts printing the current task whenever nothing was printed for some seconds.

    Raises SpecError if the environment variable is no number of seconds.
    """
    given = os.environ.get(NOTICE_DELAY_VARIABLE) or str(DEFAULT_NOTICE_DELAY)
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", given, re.ASCII):
        raise SpecError(
            f"{NOTICE_DELAY_VARIABLE} must be a number of seconds, 0 for never, got {given!r}"
        )
    clear_current_task()
    if float(given):
        seconds = float(given)
        threading.Thread(
            target=_print_task_notices, args=(seconds,), name="notices", daemon=True
        ).start()


def _print_task_notices(seconds: float) -> None:
    while True:
        time.sleep(min(0.2, seconds / 4))
        name = _CurrentTask.name
        if name is not None and time.monotonic() - _CurrentTask.last_output_time >= seconds:
            print_error(f"{name} ...")
