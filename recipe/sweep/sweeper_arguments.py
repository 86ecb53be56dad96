"""The arguments of a verb that is a sweeper of ours: to Hydra they are the sweeper's settings."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.override_parser.types import Override

from recipe.config import option_files
from recipe.config.option_files import EXPERIMENT
from recipe.config.schema import ROOT
from recipe.errors import SpecError

PREFIX = "hydra.sweeper."


def arguments(verb: str, sweeper: str, own: Sequence[str], given: Sequence[str]) -> list[str]:
    """The arguments of a verb as those of a sweep; `own` are its own. Raises SpecError for another
    sweeper."""
    chosen = f"hydra/sweeper={sweeper}"
    if others := [a for a in given if a.startswith("hydra/sweeper=") and a != chosen]:
        raise SpecError(f"{text}: {verb} is {chosen}; leave it out, or use -m" for text in others)
    known = (*option_files.GROUPS, EXPERIMENT, *(key.split(".")[0] for key in ROOT))
    found = [chosen]
    for argument in given:
        key = argument.partition("=")[0]
        is_own = key in own or (key not in known and option_files.nearest(key, own) != "")
        found.append(f"{PREFIX}{argument}" if is_own else argument)
    return found


def sweeper(overrides: Sequence[Override]) -> str | None:
    """The sweeper that a command line chooses, if it chooses one."""
    chosen = [o.value() for o in overrides if o.key_or_group == "hydra/sweeper"]
    return str(chosen[-1]) if chosen else None


def unknown(verb: str, own: Sequence[str], overrides: Sequence[Override]) -> dict[str, str]:
    """What was typed of what the sweeper has no setting for, and what to say of it."""
    found = {}
    for override in overrides:
        word, text = override.key_or_group.removeprefix(PREFIX), override.input_line
        if word == override.key_or_group and word in own:
            found[text] = f"{text}: with -m write {PREFIX}{text}; or use python -m recipe {verb}"
        if word not in (override.key_or_group, *own):
            hint = (
                option_files.nearest(word, own)
                or f"; there are {', '.join(own[:-1])} and {own[-1]}"
            )
            value = text.partition("=")[2]
            found[text] = f"{word}={value}: {verb} has no such argument{hint}"
    return found
