"""The card of an option, read from its YAML file and from the docstrings of its component."""

from __future__ import annotations

import ast
import importlib.util
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recipe.config import option_files
from recipe.config.groups import GROUPS, OFF_OPTIONS
from recipe.config.option_files import Option
from recipe.config.safe_yaml import MAX_YAML_BYTES

FIELD_NAMES = ("Helps", "Not with", "Costs", "Source")
"""A paragraph of a docstring, or a comment, that begins with one and a colon is a field."""

PARAGRAPH_BREAK = rf"\n\s*\n|\n(?=(?:{'|'.join(FIELD_NAMES)}): )"

PACKAGE_DIR = Path(__file__).resolve().parents[1]

EXTERNAL_LIBRARIES = ("torch", "torchvision", "timm", "pytorch_optimizer")
"""Their long docstrings are not part of a card."""


@dataclass(frozen=True)
class Setting:
    key: str
    value: str
    description: str


@dataclass(frozen=True)
class TrickCard:
    group: str
    option: str
    summary: str
    paragraphs: tuple[str, ...]
    fields: Mapping[str, str]
    """By FIELD_NAMES, in that order."""
    settings: tuple[Setting, ...]

    @property
    def label(self) -> str:
        return f"{self.group}={self.option}"

    @property
    def is_trick(self) -> bool:
        """Whether it can be turned off."""
        return self.group in OFF_OPTIONS and self.option != OFF_OPTIONS[self.group]


def read_cards() -> list[TrickCard]:
    """The cards of all options, including a user's own, by group."""
    return [
        read_card(option)
        for group in GROUPS
        for option in option_files.find_options(group).values()
    ]


def read_card(option: Option) -> TrickCard:
    target = str(_collect_values(option).get(f"{option.group}._target_", ""))
    paragraphs = [*_iter_comment_paragraphs(option.text), *_iter_docstring_paragraphs(target)]
    fields: dict[str, str] = {}
    about: list[str] = []
    for text in paragraphs:
        head, colon, rest = text.partition(": ")
        if colon and head in FIELD_NAMES:
            fields.setdefault(head, rest)
        elif text not in about:
            about.append(text)
    ordered = {name: fields[name] for name in FIELD_NAMES if name in fields}
    settings = tuple(_read_settings(option))
    return TrickCard(option.group, option.name, option.description, tuple(about), ordered, settings)


def _read_settings(option: Option) -> Iterator[Setting]:
    """Yields the settings of the option file and of those that it inherits from."""
    comments = option_files.read_comments(option.group, option.name)
    for key, value in _collect_values(option).items():
        name = key.partition(".")[2]
        if not name.startswith("_"):
            text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False)
            text = text.removesuffix("\n").removesuffix("\n...")
            yield Setting(key, text, comments.get(name, ""))


def _collect_values(option: Option) -> dict[str, Any]:
    """Values by dotted key."""
    found: dict[str, Any] = {}
    for file in option_files.resolve_inheritance(option.group, option.name):
        found |= option_files.read_own_settings(file)
    return found


def _iter_comment_paragraphs(text: str) -> Iterator[str]:
    """Yields the comments that begin with the name of a field, with their further lines."""
    lines = [line for line in text.splitlines() if not line.startswith("# @")]
    current = ""
    for line in lines[1:]:
        message = line.removeprefix("# ").strip() if line.startswith("# ") else ""
        if any(message.startswith(f"{name}: ") for name in FIELD_NAMES):
            yield from filter(None, [current])
            current = message
        elif current and message:
            current = f"{current} {message}"
        else:
            yield from filter(None, [current])
            current = ""
    yield from filter(None, [current])


def _iter_docstring_paragraphs(target: str) -> Iterator[str]:
    """Yields the paragraphs of the module's docstring after its summary, then those of the
    function's."""
    module, _, name = target.rpartition(".")
    try:
        file = _find_source_file(module)
        if file is None or file.stat().st_size > MAX_YAML_BYTES:
            return
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return  # of a user's module
    found: list[ast.Module | ast.ClassDef | ast.FunctionDef] = [tree]
    found += [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name
    ]
    for node in found:
        paragraphs = re.split(PARAGRAPH_BREAK, ast.get_docstring(node) or "")
        for paragraph in paragraphs[1:] if node is tree else paragraphs:
            if message := " ".join(paragraph.split()).partition("Raises ")[0].strip():
                yield message


def _find_source_file(module: str) -> Path | None:
    """The file of one of recipe's or the user's modules, without importing it; None for those of
    EXTERNAL_LIBRARIES."""
    root, *rest = module.split(".")
    if root == "recipe":
        place = PACKAGE_DIR.joinpath(*rest)
    elif root in EXTERNAL_LIBRARIES or not root:
        return None
    else:
        try:
            found = importlib.util.find_spec(root)
        except (ImportError, ValueError):
            return None
        if found is None or found.origin is None:
            return None
        place = Path(found.origin).with_suffix("") if not rest else Path(found.origin).parent
        place = place.joinpath(*rest)
    path = place.with_suffix(".py")
    return path if path.is_file() else None
