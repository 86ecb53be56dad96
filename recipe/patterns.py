"""Choosing parameters by name: exact names, globs and regular expressions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from recipe.errors import Problems


def matching(pattern: str, names: Sequence[str]) -> list[str]:
    """The names that a pattern takes, in their order; may be none.

    - `re:<expression>`: names in which the regular expression is found;
    - with `*`, `?` or `[`: a glob over the whole name;
    - else the parameter of that very name, or all parameters of the module of that name.

    Raises ValueError for an expression that is none.
    """
    if pattern.startswith("re:"):
        try:
            expression = re.compile(pattern[3:])
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return [name for name in names if expression.search(name)]
    if any(character in pattern for character in "*?["):
        return [name for name in names if fnmatchcase(name, pattern)]
    return [name for name in names if name == pattern or name.startswith(f"{pattern}.")]


def select(key: str, patterns: Iterable[str], names: Sequence[str]) -> dict[str, str]:
    """The first pattern that takes each name, for the names that one takes.

    Raises SpecError with a problem for every pattern that is none, or that matches nothing (with
    the names nearest to it), each headed by the dotted `key`.
    """
    taken: dict[str, str] = {}
    problems = Problems()
    for pattern in patterns:
        found: list[str] = []
        with problems.collect(key):
            found = matching(pattern, names)
            if not found:
                raise ValueError(
                    f"{pattern!r} matches none of the {len(names)} parameters{near(pattern, names)}"
                )
        for name in found:
            taken.setdefault(name, pattern)
    problems.raise_any()
    return taken


def near(pattern: str, names: Sequence[str]) -> str:
    """` (nearest: a, b)` for a pattern that matches nothing."""
    word = re.sub(r"^re:|[*?\[\]^$\\]", "", pattern).strip(".")
    modules = dict.fromkeys(name.rpartition(".")[0] for name in names)
    candidates = [*names, *filter(None, modules)]
    close = difflib.get_close_matches(word, candidates, n=3, cutoff=0.3) or candidates[:3]
    return f" (nearest: {', '.join(close)})"
