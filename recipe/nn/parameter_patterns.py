"""Selects parameters by name: exact names, globs and regular expressions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

import re2

from recipe.errors import Problems, SpecError

MAX_PATTERNS = 1000

MAX_PATTERN_LENGTH = 1000

MAX_LISTED_PROBLEMS = 20


def match_names(pattern: str, names: Sequence[str]) -> list[str]:
    """The names that match a pattern, in their order.

    - `re:<expression>`: names in which the regular expression is found, in the syntax of RE2
      (https://github.com/google/re2/wiki/Syntax), whose time is linear in the length of a name:
      no look-around and no back-references;
    - with `*`, `?` or `[`: a glob over the full name;
    - else the parameter of that name, or all parameters of the module of that name.

    Raises ValueError for an invalid expression, and for more than MAX_PATTERN_LENGTH characters.
    """
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise ValueError(
            f"{pattern[:40]!r}... is a pattern of {len(pattern):,} characters, and at most "
            f"{MAX_PATTERN_LENGTH:,} are read; use a shorter glob, or several patterns"
        )
    if pattern.startswith("re:"):
        options = re2.Options()
        options.log_errors = False
        try:
            expression = re2.compile(pattern[3:], options)
        except re2.error as error:
            reason = error.args[0].decode("utf-8", "replace")
            raise ValueError(
                f"{pattern!r} is no regular expression: {reason} (the syntax is RE2's, without "
                "look-around and back-references; use several patterns instead)"
            ) from error
        return [name for name in names if expression.search(name)]
    if any(character in pattern for character in "*?["):
        return [name for name in names if fnmatchcase(name, pattern)]
    return [name for name in names if name == pattern or name.startswith(f"{pattern}.")]


def assign_patterns(key: str, patterns: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """The first pattern that matches each name, for the names that match one.

    Raises SpecError for more than MAX_PATTERNS, and for patterns that are invalid or match nothing
    (with the nearest names), each naming the dotted `key`.
    """
    if len(patterns) > MAX_PATTERNS:
        raise SpecError(
            f"{key}: {len(patterns):,} patterns, and at most {MAX_PATTERNS:,} are read; use the "
            "names of modules, or globs"
        )
    taken: dict[str, str] = {}
    problems, more = Problems(), 0
    for pattern in patterns:
        found: list[str] = []
        with problems.collect(key):
            found = match_names(pattern, names)
            more += not found and len(problems) >= MAX_LISTED_PROBLEMS
            if not found and len(problems) < MAX_LISTED_PROBLEMS:
                raise ValueError(
                    f"{pattern!r} matches none of the {len(names)} "
                    f"parameters{format_nearest(pattern, names)}"
                )
        for name in found:
            taken.setdefault(name, pattern)
    if more:
        problems.append(f"{key}: {more:,} more match nothing")
    problems.raise_if_any()
    return taken


def format_nearest(pattern: str, names: Sequence[str]) -> str:
    """` (nearest: a, b)` for a pattern that matches nothing."""
    word = re.sub(r"^re:|[*?\[\]^$\\]", "", pattern).strip(".")
    modules = dict.fromkeys(name.rpartition(".")[0] for name in names)
    candidates = [*names, *filter(None, modules)]
    close = difflib.get_close_matches(word, candidates, n=3, cutoff=0.3) or candidates[:3]
    return f" (nearest: {', '.join(close)})"
