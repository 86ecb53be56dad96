"""The arguments of `ablate` and `search`, which to Hydra are settings of their sweepers."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence

from hydra.core.override_parser.types import Override

from recipe.config import option_files
from recipe.config.groups import GROUPS, RUN_SETTINGS
from recipe.config.option_files import EXPERIMENT_GROUP
from recipe.errors import SpecError
from recipe.formatting import format_value

SWEEPER_PREFIX = "hydra.sweeper."

CREDENTIALS_PROBLEM = (
    "storage: the address has a user or a password in it; set PGUSER and PGPASSWORD in the "
    "environment, and leave them out of the address"
)


def to_sweeper_overrides(
    verb: str, sweeper: str, argument_names: Sequence[str], arguments: Sequence[str]
) -> list[str]:
    """The command line of a verb with its own arguments, `argument_names`, as settings of its
    sweeper. Raises SpecError if another sweeper is selected."""
    chosen = f"hydra/sweeper={sweeper}"
    if others := [a for a in arguments if a.startswith("hydra/sweeper=") and a != chosen]:
        raise SpecError(f"{text}: {verb} is {chosen}; leave it out, or use -m" for text in others)
    known = (*GROUPS, EXPERIMENT_GROUP, *(key.split(".")[0] for key in RUN_SETTINGS))
    overrides = [chosen]
    for argument in arguments:
        key = argument.partition("=")[0]
        is_setting = key in argument_names or (
            key not in known and option_files.suggest_nearest(key, argument_names) != ""
        )
        overrides.append(f"{SWEEPER_PREFIX}{argument}" if is_setting else argument)
    return overrides


def get_sweeper(overrides: Sequence[Override]) -> str | None:
    """The sweeper that a command line selects, if any."""
    chosen = [o.value() for o in overrides if o.key_or_group == "hydra/sweeper"]
    return str(chosen[-1]) if chosen else None


def find_unknown_arguments(
    verb: str, argument_names: Sequence[str], overrides: Sequence[Override]
) -> dict[str, str]:
    """The problems of overrides that the sweeper has no setting for, by their text."""
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


def find_yes_problems(value: object) -> list[str]:
    if isinstance(value, bool):
        return []
    return [
        f"yes must be true or false, got {format_value(value)} (whether to start without asking)"
    ]


def is_hydra_override(text: str) -> bool:
    """Whether an override is of Hydra's own settings."""
    return text.lstrip("+~").startswith(("hydra.", "hydra/"))


def check_no_password(arguments: Sequence[str]) -> None:
    """Raises SpecError if `storage` has credentials, before any message shows it."""
    for argument in arguments:
        key, _, address = argument.partition("=")
        if key.lstrip("+") in ("storage", f"{SWEEPER_PREFIX}storage") and _has_credentials(address):
            raise SpecError(CREDENTIALS_PROBLEM)


def find_address_problems(configured: object) -> list[str]:
    """The problems of an address of Optuna's storage, which isn't shown if it has credentials."""
    address = str(configured)
    if configured is None or re.fullmatch(r"sqlite:///.+", address):
        return []
    if _has_credentials(address):
        return [CREDENTIALS_PROBLEM]
    if not re.fullmatch(r"postgresql(\+psycopg2)?://[^/]*/[^/]+", address):
        return [
            f"storage={address}: write postgresql://<host>/<database>, or leave it out for sqlite"
        ]
    if importlib.util.find_spec("psycopg2") is None:
        return [f"storage={address}: psycopg2 isn't installed; pip install psycopg2-binary"]
    return []


def _has_credentials(address: str) -> bool:
    return "@" in address or re.search(r"[?&](user|password)=", address) is not None
