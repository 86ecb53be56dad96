"""Options of the menu within the settings of another: `parts: [{option: step, gamma: 0.5}, ...]`.

A group's setting called `parts` is a list of such; each becomes the whole of that option, with its
`_target_` and the settings of its file, so that a spec still says all that a run does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from recipe.config import option_files
from recipe.config.groups import ENGINE_SETTINGS, GROUPS
from recipe.config.option_files import suggest_nearest
from recipe.errors import SpecError

NESTED_OPTIONS_KEY = "parts"

OptionComposer = Callable[[str, str], dict[str, Any]]
"""Group and option -> what its file gives, texts with ${...} as they are written."""


def expand_nested_options(composed: DictConfig, compose: OptionComposer) -> None:
    """Puts the options in the place of their names. Raises SpecError with those that there are
    not, and those that have parts themselves."""
    problems: list[str] = []
    for group in GROUPS:
        node: Any = composed._get_node(group)
        listed = node._get_node(NESTED_OPTIONS_KEY) if OmegaConf.is_dict(node) else None
        items = OmegaConf.to_container(listed) if isinstance(listed, ListConfig) else None
        if isinstance(items, list):
            named = [i for i, item in enumerate(items) if _is_option_reference(item)]
            wrong = [
                line
                for i in named
                for line in _find_reference_problems(group, i, items[i]["option"])
            ]
            problems += wrong
            for index in [] if wrong else named:
                items[index] = _expand_reference(group, items[index], compose)
            node[NESTED_OPTIONS_KEY] = items
    if problems:
        raise SpecError(problems)


def _is_option_reference(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("option"), str) and "_target_" not in item


def _find_reference_problems(group: str, index: int, option: str) -> Iterator[str]:
    key, known = f"{group}.{NESTED_OPTIONS_KEY}[{index}].option", option_files.find_options(group)
    if option not in known:
        hint = suggest_nearest(option, known) or f"; there are {', '.join(known)}"
        yield f"{key}: {group}={option}: no such option{hint}"
    elif NESTED_OPTIONS_KEY in known[option].keys:
        yield f"{key}: {option} has parts itself; write those here"


def _expand_reference(group: str, given: dict[str, Any], compose: OptionComposer) -> dict[str, Any]:
    """The option's settings under those that are given; those of the engine's own are one for
    all parts."""
    usual = compose(group, given["option"])
    own = {key: value for key, value in usual.items() if key not in ENGINE_SETTINGS[group]}
    return {**own, **given, "_partial_": True}
