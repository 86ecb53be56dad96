"""Rules that tricks state beside their own code, collected from all of them before training.

Beside a part `name` may stand, in its module, `check_name(planned, **settings)`; in a group's
`__init__.py`, `check(planned)`, which holds for all options of the group, torch's own classes
and a user's included. Both give problems: one line each with the key, the reason and a way out;
raising ValueError tells one, too. `caution_name` and `caution` are called in the same way, and give
cautions, with which a run trains all the same; `describe_name` gives a line for the plan.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import suppress

from recipe.components.contract import MissingComponent, PlannedRun, find_hook
from recipe.config import instantiate
from recipe.config.option_files import GROUPS
from recipe.errors import Problems

Rule = Callable[[], Iterator[str] | None]


def find_problems(planned: PlannedRun, failed_groups: set[str]) -> Problems:
    """What the tricks say against the plan; groups in `broken` aren't asked."""
    problems = Problems()
    for group in GROUPS:
        if group not in failed_groups:
            for rule in _find_rules(planned, group):
                with (
                    problems.collect_component_errors(planned.choice(group)),
                    suppress(MissingComponent),
                ):
                    problems.extend(rule() or ())
    return problems


def find_warnings(planned: PlannedRun) -> list[str]:
    """What a reader of the plan should know, of parts that could all be made."""
    return [
        line
        for group in GROUPS
        for rule in _find_rules(planned, group, "caution")
        for line in rule() or ()
    ]


def describe_component(planned: PlannedRun, group: str) -> str | None:
    """What the part says of itself for the plan, if anything."""
    bound = instantiate.bind_component(planned.spec, group)
    own = find_hook(bound.func, "describe")
    return own(planned, **bound.keywords) if own else None


def _find_rules(planned: PlannedRun, group: str, prefix: str = "check") -> Iterator[Rule]:
    everyones = getattr(importlib.import_module(f"recipe.components.{group}"), prefix, None)
    if everyones is not None:
        yield lambda: everyones(planned)
    bound = instantiate.bind_component(planned.spec, group)
    own = find_hook(bound.func, prefix)
    if own is not None:
        yield lambda: own(planned, **bound.keywords)
