"""The setting `data.path`, and the errors of the operating system about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recipe.formatting import escape_unprintable


def require_path(path: str | None, hint: str) -> Path:
    """Returns `data.path`. Raises ValueError if it is empty; `hint` describes a valid path."""
    if not path:
        raise ValueError(f"data.path: {'null' if path is None else 'empty'}; give {hint}")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # ~name of an unknown user
        raise ValueError(
            f"data.path: {escape_unprintable(path)}: {error}; write the full path"
        ) from error


@contextmanager
def translate_os_errors() -> Iterator[None]:
    """Raises an OSError of the block as a ValueError about data.path."""
    try:
        yield
    except OSError as error:
        where = f"{escape_unprintable(str(error.filename))}: " if error.filename is not None else ""
        reason = error.strerror or " ".join(str(error).split())
        raise ValueError(f"data.path: {where}{reason}") from error
