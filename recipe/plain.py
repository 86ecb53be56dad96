"""Plain values: what may stand in a YAML file or in a spec, whoever wrote it.

A file is looked at as a stream of YAML events before anything is made of it, so that one which
would grow, recurse or name Python objects costs nothing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

LARGEST = 2**20
"""Bytes of a YAML file."""

DEEPEST = 30
"""Mappings and lists within each other."""

MOST = 100_000
"""Values of a YAML file, aliases written out."""

DIGITS = 1000
"""Digits of a number; Python itself refuses to read very many."""

TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in (
    "str", "int", "float", "bool", "null", "map", "seq",
))  # fmt: skip


def read_text(path: Path) -> str:
    """The text of a YAML file that holds plain values.

    Raises ValueError for a file that is none, that is too large, too deep or too long once its
    aliases are written out, and for tags of anything but plain values.
    """
    if not path.is_file():  # a device or a pipe may never end
        raise ValueError(f"{path}: there is no such file")
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{path}: is larger than {LARGEST} bytes, too large for settings")
    try:
        text = content.decode("utf-8")
        _check_events(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: can't be read: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise ValueError(f"{path}: can't be read: {error}") from error
    return text


def _check_events(text: str) -> None:
    anchored: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    count = 0  # values so far, aliases written out
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchored:
                raise ValueError(f"the alias *{event.anchor} stands for nothing, or for itself")
            count += anchored[event.anchor]
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                anchored[anchor] = count - before
        elif isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)):
            if event.tag is not None and event.tag not in TAGS:
                raise ValueError(f"the tag {event.tag} isn't that of a plain value; leave it out")
            if isinstance(event, yaml.ScalarEvent):
                if len(event.value) > DIGITS and event.implicit[0] and event.value.isdigit():
                    raise ValueError(f"a number of {len(event.value)} digits; give a smaller one")
                anchored |= {event.anchor: 1} if event.anchor else {}
            else:
                open_nodes.append((event.anchor, count))
            count += 1
        if count > MOST:
            raise ValueError(f"more than {MOST} values, its aliases written out")
        if len(open_nodes) > DEEPEST:
            raise ValueError(f"more than {DEEPEST} mappings and lists within each other")


def interpolations(path: Path) -> list[str]:
    """The dotted keys of a YAML file whose value is, or whose name has, a `${...}`."""
    return [key for key, value in _leaves("", _as_texts(path)) if "${" in key or "${" in str(value)]


def texts(path: Path, key: str) -> list[str]:
    """Every name and value below a top-level key of a YAML file, as they are written."""
    content = _as_texts(path)
    below = content.get(key) if isinstance(content, Mapping) else None
    return [text for name, value in _leaves("", below) for text in (name, str(value))]


def _as_texts(path: Path) -> Any:
    """A YAML file's content with nothing converted. Raises ValueError."""
    try:
        return yaml.load(read_text(path), Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: can't be read: {' '.join(str(error).split())}") from error


def problems(content: Mapping[Any, Any]) -> list[str]:
    """What of a resolved spec is no plain value: told by dotted key."""
    if _depth(content) > DEEPEST:
        return [f"spec: more than {DEEPEST} mappings and lists within each other; write it flat"]
    return [
        f"{_shown(key)} {wrong}"
        for key, value in _leaves("", content)
        if (wrong := _wrong(key) or _wrong(value))
    ]


def one_line(text: str) -> str:
    """The text with every character that ends a line or steers a terminal written as an escape."""
    return "".join(ascii(char)[1:-1] if _steers(char) else char for char in text)


def _shown(key: str) -> str:
    return one_line(key)[:200]


def _wrong(value: Any) -> str | None:
    if isinstance(value, str):
        if any(map(_steers, value)):
            return f"must have no control characters, got {value[:200]!a}; leave them out"
        if "${" in value:
            return (
                f"must have no ${{ once it is resolved, got {value[:200]!r}: it would be resolved "
                "a second time; give the value itself"
            )
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "must be a whole number of at most 64 bits; give a smaller one"
    elif not isinstance(value, (int, float, type(None), list, Mapping)):
        return f"must be a plain value, got {type(value).__name__}; write a text or a number"
    return None


def _steers(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")


def _leaves(prefix: str, content: Any) -> Iterator[tuple[str, Any]]:
    """Every value that holds no others, by dotted key; an empty mapping or list is one too."""
    items: list[tuple[str, Any]] = []
    if isinstance(content, Mapping):
        items = [
            (f"{prefix}.{name}" if prefix else name, value)
            for key, value in content.items()
            for name in [key if isinstance(key, str) else _wrong(key) or str(key)]
        ]
    elif isinstance(content, list):
        items = [(f"{prefix}[{index}]", value) for index, value in enumerate(content)]
    if not items:
        yield prefix, content
    for key, value in items:
        yield from _leaves(key, value)


def _depth(content: Any) -> int:
    """How many mappings and lists stand within each other, counted without recursing."""
    depth, level = 0, [content]
    while level := [value for value in level if isinstance(value, (Mapping, list)) and value]:
        depth += 1
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, Mapping) else value)
        ]
    return depth
