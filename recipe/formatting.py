"""Numbers and names in messages."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

MAX_VALUE_LENGTH = 200


def pluralize(number: int, thing: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def format_duration(seconds: float) -> str:
    """`0.8 s`, `42 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def format_percent(share: float) -> str:
    """`99.4 %` for 0.994."""
    return f"{100 * share:.1f} %"


def format_list(names: Sequence[object], limit: int = 3) -> str:
    """`a, b, c and 4 more`."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return f"{', '.join(map(str, names[:limit]))}{more}"


def format_value(value: object, max_length: int = MAX_VALUE_LENGTH) -> str:
    """Formats a value as Python does, or as YAML for null, true and false; cut to `max_length`."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= max_length else f"{text[: max_length - 3]}..."


def relative_to_cwd(path: Path) -> str:
    """Returns a path below the working directory relative to it, any other as it is."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def escape_unprintable(path: Path | str) -> str:
    """Escapes line breaks and whatever else a terminal would obey or can't show."""
    text = str(path)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def escape_unprintable_lines(text: str) -> str:
    """Escapes each line by `escape_unprintable`."""
    if text.isprintable():
        return text
    return "\n".join(escape_unprintable(line.expandtabs()) for line in text.split("\n"))


def format_bytes(number: int) -> str:
    """`512 B`, `16.0 KiB`, `3.2 MiB`, `1.5 GiB`."""
    size, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.1f} {unit}" if unit != "B" else f"{number} B"


MASK = "***"


def mask_addresses(text: str) -> str:
    """Masks the text between :// and @; a password may contain / or @."""
    return re.sub(r"://(\S*|[^@]*)@", f"://{MASK}@", text)
