"""Arguments of verbs without a spec: key=value pairs."""

from __future__ import annotations

from collections.abc import Sequence

from recipe.config import option_files
from recipe.errors import SpecError


def parse_key_values(
    verb: str, arguments: Sequence[str], defaults: dict[str, str], positional: str = ""
) -> dict[str, str]:
    """Parses key=value, --key=value or --key value over the defaults.

    Any other argument is the value of the key `positional`, if given. Raises SpecError for unknown
    keys.
    """
    values, problems = dict(defaults), []
    rest, seen = iter(arguments), set()
    for argument in rest:
        key, equals, value = argument.removeprefix("--").partition("=")
        if positional and _is_positional(argument, defaults):
            if values[positional]:
                given = f"{positional}={values[positional]} is given already"
                problems.append(f"{verb}: {argument}: {given}; give one of them")
            values[positional] = argument
            continue
        flag = argument.startswith("--") and not equals
        if flag:
            value = next(rest, "")
        if key not in defaults or not (equals or flag):
            hint = (
                option_files.suggest_nearest(key, defaults) or f"; there are {', '.join(defaults)}"
            )
            problems.append(f"{verb}: {argument}: no such argument{hint}")
        elif flag and (not value or value.startswith("--")):
            problems.append(f"{verb}: {argument}: has no value; write {key}=<value>")
        elif key in seen:
            problems.append(f"{verb}: {argument}: {key} is given already; give it once")
        values[key] = value
        seen.add(key)
    if problems:
        raise SpecError(problems)
    return values


def parse_number(verb: str, key: str, value: str, *, is_integer: bool = False) -> float:
    """Raises SpecError for a value that is not a number."""
    try:
        return int(value) if is_integer else float(value)
    except ValueError:
        kind = "a whole number" if is_integer else "a number"
        message = f"{verb}: {key} must be {kind}, got {value!r}; write {key}=<number>"
        raise SpecError(message) from None


def _is_positional(argument: str, known: dict[str, str]) -> bool:
    """Whether an argument isn't a pair with a known or misspelled key; the name of a sweep may
    contain =."""
    key, equals, value = argument.partition("=")
    swept = "," in value or " " in value
    slip = equals and not swept and option_files.suggest_nearest(key, known)
    return bool(argument) and not (argument.startswith("--") or key in known or slip)
