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

from recipe.components.contract import Planned, Unmade, beside
from recipe.config import instantiate
from recipe.config.option_files import GROUPS
from recipe.errors import Problems

Rule = Callable[[], Iterator[str] | None]


def check(planned: Planned, broken: set[str]) -> Problems:
    """What the tricks say against the plan; groups in `broken` aren't asked."""
    problems = Problems()
    for group in GROUPS:
        if group not in broken:
            for rule in _rules(planned, group):
                with problems.component(planned.choice(group)), suppress(Unmade):
                    problems.extend(rule() or ())
    return problems


def cautions(planned: Planned) -> list[str]:
    """What a reader of the plan should know, of parts that could all be made."""
    return [
        line
        for group in GROUPS
        for rule in _rules(planned, group, "caution")
        for line in rule() or ()
    ]


def description(planned: Planned, group: str) -> str | None:
    """What the part says of itself for the plan, if anything."""
    bound = instantiate.part(planned.spec, group)
    own = beside(bound.func, "describe")
    return own(planned, **bound.keywords) if own else None


def _rules(planned: Planned, group: str, prefix: str = "check") -> Iterator[Rule]:
    everyones = getattr(importlib.import_module(f"recipe.components.{group}"), prefix, None)
    if everyones is not None:
        yield lambda: everyones(planned)
    bound = instantiate.part(planned.spec, group)
    own = beside(bound.func, prefix)
    if own is not None:
        yield lambda: own(planned, **bound.keywords)
