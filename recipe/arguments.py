"""The arguments of verbs that take no spec: plain key=value pairs."""

from __future__ import annotations

from collections.abc import Sequence

from recipe import menu
from recipe.errors import SpecError


def key_values(verb: str, arguments: Sequence[str], known: dict[str, str]) -> dict[str, str]:
    """A verb's own arguments over their defaults; raises SpecError for any that isn't known."""
    values, problems = dict(known), []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in known:
            hint = menu.nearest(key, known) or f"; there are {', '.join(known)}"
            problems.append(f"{verb}: {argument}: no such argument{hint}")
        values[key] = value
    if problems:
        raise SpecError(problems)
    return values
