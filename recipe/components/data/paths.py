"""The path that an option of data is given, and what the system says of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recipe.formatting import escape_unprintable


def require_path(path: str | None, hint: str) -> Path:
    """`data.path` as a path. Raises ValueError where none is given; `wanted` says what to give."""
    if not path:
        raise ValueError(f"data.path: {'null' if path is None else 'empty'}; give {hint}")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # ~name where there is nobody of that name
        raise ValueError(
            f"data.path: {escape_unprintable(path)}: {error}; write the path out"
        ) from error


@contextmanager
def translate_os_errors() -> Iterator[None]:
    """An OSError of the block, such as of a file that may not be read, as a ValueError."""
    try:
        yield
    except OSError as error:
        where = f"{escape_unprintable(str(error.filename))}: " if error.filename is not None else ""
        reason = error.strerror or " ".join(str(error).split())
        raise ValueError(f"data.path: {where}{reason}") from error
