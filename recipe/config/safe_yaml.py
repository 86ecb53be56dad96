"""Reads untrusted YAML and JSON files: plain values of limited size and depth.

A YAML file is checked as a stream of events before objects are constructed, so that files that
expand, recurse or name Python objects do no harm.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

MAX_YAML_BYTES = 2**20
"""Of a file, and of its strings with aliases expanded."""

MAX_RECORD_BYTES = 2**28

MAX_DEPTH = 30

MAX_VALUES = 10_000
"""Aliases expanded; OmegaConf takes about 0.3 ms for each."""

MAX_INTERPOLATED_LENGTH = 2000
"""Characters of a string with `${...}`, which OmegaConf parses."""

MAX_DIGITS = 1000

ALLOWED_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in (
    "str", "int", "float", "bool", "null", "map", "seq",
))  # fmt: skip

NUMBER_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float"))


def read_yaml_text(path: Path) -> str:
    """Reads a YAML file of plain values.

    Raises ValueError if it can't be read, is too large, too deep, too large with aliases expanded,
    or has tags of other values.
    """
    try:
        if not path.is_file():  # reading a device or a pipe may block
            raise ValueError(f"{path}: {_describe_irregular_file(path)}")
        with path.open("rb") as file:
            content = file.read(MAX_YAML_BYTES + 1)
    except OSError as error:  # such as a file of another user
        raise ValueError(f"{path}: can't be read: {error.strerror}") from error
    if len(content) > MAX_YAML_BYTES:
        raise ValueError(f"{path}: is larger than {MAX_YAML_BYTES} bytes, too large for settings")
    try:
        text = content.decode("utf-8")
        check_yaml(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: can't be read: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise ValueError(f"{path}: can't be read: {error}") from error
    return text


def _describe_irregular_file(path: Path) -> str:
    """Raises OSError if the path can't be examined."""
    try:
        path.stat()
    except FileNotFoundError:
        link = f"is a link to {os.readlink(path)}, and " if path.is_symlink() else ""
        return escape_control_chars(f"{link}there is no such file")
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return "is a link to itself; link it to the file"
    return "is not a regular file"


def open_regular_file(path: Path | str) -> BinaryIO:
    """Opens a file. Raises OSError for a folder, pipe or device, and for more than
    MAX_RECORD_BYTES."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    about, reason = os.fstat(descriptor), ""
    if not stat.S_ISREG(about.st_mode):
        reason = "is not a regular file"
    elif about.st_size > MAX_RECORD_BYTES:
        reason = f"is larger than {MAX_RECORD_BYTES:,} bytes"
    if reason:
        os.close(descriptor)
        raise OSError(errno.EINVAL, reason, str(path))
    return open(descriptor, "rb")


def read_json(content: bytes) -> Any:
    """Raises ValueError, also for JSON that is nested too deeply."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


SCALAR_PATTERNS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"~|null|Null|NULL|", ("~", "n", "N", "")),
    "int": (r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)", "-+0123456789"),
    "float": (
        r"[-+]?[0-9]+(_[0-9]+)*(\.[0-9_]*([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)"
        r"|[-+]?\.[0-9]+(_[0-9]+)*([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}
"""Scalars that are not strings, and their first characters, as on Hydra's command line; YAML 1.1
would also read `on` and `no` as booleans, 010 as 8 and 12:30 as 750."""


@functools.cache
def _get_yaml_loader() -> Any:
    """OmegaConf's loader, which refuses duplicate keys, with SCALAR_PATTERNS."""
    loader = get_yaml_loader()  # a new class each time
    loader.yaml_implicit_resolvers = {}
    for kind, (form, first) in SCALAR_PATTERNS.items():
        tag = f"tag:yaml.org,2002:{kind}"
        loader.add_implicit_resolver(tag, re.compile(f"^({form})$"), list(first))
    return loader


def load(path: Path) -> Any:
    """Reads a YAML file of plain values. Raises ValueError."""
    return _load_with(path, _get_yaml_loader())


def load_mapping(path: Path) -> dict[Any, Any]:
    """Reads an option or experiment file.

    Raises ValueError unless it is a mapping whose names are strings, with valid `defaults` and
    `${...}`.
    """
    text = read_yaml_text(path)
    content = _parse(path, text, _get_yaml_loader())
    if not isinstance(content, dict | None):
        raise ValueError(f"{path}: must be a mapping; write lines of the form setting: value")
    content = content or {}
    levels = 2 if "@package _global_" in text else 1
    wrong = (
        _find_invalid_name(content, levels)
        or _find_invalid_defaults(content)
        or _find_invalid_interpolation(content)
    )
    if wrong:
        raise ValueError(f"{path}: {wrong}")
    return content


def _load_with(path: Path, loader: Any) -> Any:
    return _parse(path, read_yaml_text(path), loader)


def _parse(path: Path, text: str, loader: Any) -> Any:
    try:
        return yaml.load(text, Loader=loader)
    except (yaml.YAMLError, ValueError, LookupError, ArithmeticError) as error:
        # the last two for tags that don't fit, such as `!!bool maybe`
        raise ValueError(f"{path}: can't be read: {' '.join(str(error).split())}") from error


def _find_invalid_name(content: Any, levels: int, prefix: str = "") -> str:
    """Describes a name that is not a string, in the given levels, or null, in any; else empty."""
    items: list[tuple[Any, Any]] = []
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, list):
        items, levels = [("", value) for value in content], 0
    for key, value in items:
        shown = json.dumps(key) if not isinstance(key, str) else key
        name = _format_key(f"{prefix}.{shown}".strip("."))
        if key is None or (levels > 0 and not isinstance(key, str)):
            return (
                f"{name}: the name of a setting must be a string, got {shown[:100]}; write "
                f'"{shown[:100]}" in quotes, or leave it out'
            )
        if wrong := _find_invalid_name(value, levels - 1, name):
            return wrong
    return ""


def _find_invalid_defaults(content: dict[str, Any]) -> str:
    """Describes why Hydra can't read the defaults list; empty if it can."""
    if "defaults" not in content:
        return ""
    entries = content["defaults"]
    way_out = "write [<option>, _self_], or [override /<group>: <option>] in an experiment file"
    if not isinstance(entries, list):
        return f"defaults must be a list of options, got {_format_yaml(entries)}; {way_out}"
    for index, entry in enumerate(entries):
        names: list[Any] = [entry]
        if isinstance(entry, dict) and len(entry) == 1:
            ((group, value),) = entry.items()
            names = [group, *(value if isinstance(value, list) else [value or ""])]
        if not all(isinstance(name, str) for name in names):
            return (
                f"defaults[{index}] must be the name of an option or one pair of a group and an "
                f"option, got {_format_yaml(entry)}; {way_out}"
            )
    return ""


def _find_invalid_interpolation(content: dict[str, Any]) -> str:
    """Describes the first `${...}` that OmegaConf can't parse; empty if there is none."""
    left = MAX_CHECKED_LENGTH
    for key, value in _iter_leaves("", content):
        if isinstance(value, str) and "${" in value and (left := left - len(value)) >= 0:
            try:
                OmegaConf.create([value])
            except (OmegaConfBaseException, RecursionError) as error:
                return (
                    f"{_format_key(key)} must have a complete ${{...}}, got {value[:100]!r} "
                    f"({str(error).splitlines()[0][:200]}); write ${{group.setting}}, or "
                    "\\${ for the literal characters"
                )
    return ""


MAX_CHECKED_LENGTH = 20_000
"""Characters with `${...}` that are checked per file; others are checked when it is chosen."""


def _format_yaml(value: Any) -> str:
    return json.dumps(value)[:100]


def check_yaml(text: str) -> None:
    """Raises ValueError or YAMLError unless the YAML has only plain values within the limits."""
    anchored: dict[str, tuple[int, int]] = {}
    open_nodes: list[tuple[str | None, int, int]] = []
    count = length = 0  # of the values and their strings, aliases expanded
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchored:
                raise ValueError(
                    f"the alias *{str(event.anchor)[:100]} is undefined, or refers to itself"
                )
            count += anchored[event.anchor][0]
            length += anchored[event.anchor][1]
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, *before = open_nodes.pop()
            if anchor is not None:
                anchored[anchor] = count - before[0], length - before[1]
        elif isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)):
            if event.tag is not None and event.tag not in ALLOWED_TAGS:
                raise ValueError(
                    f"the tag {event.tag[:100]} isn't that of a plain value; leave it out"
                )
            if isinstance(event, yaml.ScalarEvent):
                number = event.value.isdigit() if event.implicit[0] else event.tag in NUMBER_TAGS
                if len(event.value) > MAX_DIGITS and number:
                    raise ValueError(f"a number of {len(event.value)} digits; give a smaller one")
                if len(event.value) > MAX_INTERPOLATED_LENGTH and "${" in event.value:
                    raise ValueError(
                        f"a string of {len(event.value)} characters with a ${{...}} in it; at most "
                        f"{MAX_INTERPOLATED_LENGTH} are read, give the value itself"
                    )
                anchored |= {event.anchor: (1, len(event.value))} if event.anchor else {}
                length += len(event.value)
            else:
                open_nodes.append((event.anchor, count, length))
            count += 1
        if count > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values, its aliases expanded; give fewer")
        if length > MAX_YAML_BYTES:
            raise ValueError(
                f"more than {MAX_YAML_BYTES} characters, its aliases expanded; give fewer"
            )
        if len(open_nodes) > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} mappings and lists within each other")


def find_interpolations(path: Path) -> list[str]:
    """Returns the dotted keys with a `${...}` in their name or value."""
    return [
        key
        for key, value in _iter_leaves("", _load_strings(path))
        if "${" in key or "${" in str(value)
    ]


def _load_strings(path: Path) -> Any:
    return _load_with(path, yaml.BaseLoader)


def find_invalid_values(content: Mapping[Any, Any]) -> list[str]:
    """Describes, by dotted key, the values of a resolved spec that are not plain."""
    if _nesting_depth(content) > MAX_DEPTH:
        return [f"spec: more than {MAX_DEPTH} mappings and lists within each other; write it flat"]
    return [
        f"{_format_key(key)} {wrong}"
        for key, value in _iter_leaves("", content)
        if (wrong := _describe_invalid_value(key) or _describe_invalid_value(value))
    ]


def escape_control_chars(text: str) -> str:
    """Escapes every character that ends a line or controls a terminal."""
    return "".join(ascii(char)[1:-1] if _is_control_char(char) else char for char in text)


def _format_key(key: str) -> str:
    return escape_control_chars(key)[:200]


def _describe_invalid_value(value: Any) -> str | None:
    if isinstance(value, str):
        if any(map(_is_control_char, value)):
            return f"must have no control characters, got {value[:200]!a}; leave them out"
        if "${" in value:
            return (
                f"must have no ${{ after it is resolved, got {value[:200]!r}; give the value itself"
            )
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "must be a whole number of at most 64 bits; give a smaller one"
    elif not isinstance(value, (int, float, type(None), list, Mapping)):
        return f"must be a plain value, got {type(value).__name__}; write a string or a number"
    return None


def _is_control_char(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")


def _iter_leaves(prefix: str, content: Any) -> Iterator[tuple[str, Any]]:
    """Yields every value without children by dotted key, empty mappings and lists included."""
    items: list[tuple[str, Any]] = []
    if isinstance(content, Mapping):
        items = [
            (f"{prefix}.{name}" if prefix else name, value)
            for key, value in content.items()
            for name in [key if isinstance(key, str) else _describe_invalid_value(key) or str(key)]
        ]
    elif isinstance(content, list):
        items = [(f"{prefix}[{index}]", value) for index, value in enumerate(content)]
    if not items:
        yield prefix, content
    for key, value in items:
        yield from _iter_leaves(key, value)


def _nesting_depth(content: Any) -> int:
    """Counts nested mappings and lists without recursion."""
    depth, level = 0, [content]
    while level := [value for value in level if isinstance(value, (Mapping, list)) and value]:
        depth += 1
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, Mapping) else value)
        ]
    return depth
