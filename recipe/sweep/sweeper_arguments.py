"""The arguments of a verb that is a sweeper of ours: to Hydra they are the sweeper's settings."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.override_parser.types import Override

from recipe.config import option_files
from recipe.config.groups import GROUPS, RUN_SETTINGS
from recipe.config.option_files import EXPERIMENT_GROUP
from recipe.errors import SpecError

SWEEPER_PREFIX = "hydra.sweeper."


def to_sweeper_overrides(
    verb: str, sweeper: str, argument_names: Sequence[str], arguments: Sequence[str]
) -> list[str]:
    """The arguments of a verb as those of a sweep; `own` are its own. Raises SpecError for another
    sweeper."""
    chosen = f"hydra/sweeper={sweeper}"
    if others := [a for a in arguments if a.startswith("hydra/sweeper=") and a != chosen]:
        raise SpecError(f"{text}: {verb} is {chosen}; leave it out, or use -m" for text in others)
    known = (*GROUPS, EXPERIMENT_GROUP, *(key.split(".")[0] for key in RUN_SETTINGS))
    found = [chosen]
    for argument in arguments:
        key = argument.partition("=")[0]
        is_own = key in argument_names or (
            key not in known and option_files.suggest_nearest(key, argument_names) != ""
        )
        found.append(f"{SWEEPER_PREFIX}{argument}" if is_own else argument)
    return found


def get_sweeper(overrides: Sequence[Override]) -> str | None:
    """The sweeper that a command line chooses, if it chooses one."""
    chosen = [o.value() for o in overrides if o.key_or_group == "hydra/sweeper"]
    return str(chosen[-1]) if chosen else None


def find_unknown_arguments(
    verb: str, argument_names: Sequence[str], overrides: Sequence[Override]
) -> dict[str, str]:
    """What was typed of what the sweeper has no setting for, and what to say of it."""
    found = {}
    for override in overrides:
        word, text = override.key_or_group.removeprefix(SWEEPER_PREFIX), override.input_line
        if word == override.key_or_group and word in argument_names:
            found[text] = (
                f"{text}: with -m write {SWEEPER_PREFIX}{text}; or use python -m recipe {verb}"
            )
        if word not in (override.key_or_group, *argument_names):
            hint = (
                option_files.suggest_nearest(word, argument_names)
                or f"; there are {', '.join(argument_names[:-1])} and {argument_names[-1]}"
            )
            value = text.partition("=")[2]
            found[text] = f"{word}={value}: {verb} has no such argument{hint}"
    return found
