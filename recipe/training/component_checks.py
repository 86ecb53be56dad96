"""The rules that components and groups have registered, applied to the planned run.

`recipe.components.contract` describes `check`, `caution` and `describe`. What is registered for a
group holds for all its options, including torch's classes and a user's components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from recipe.components.contract import Hook, MissingComponent, PlannedRun, caution, check, describe
from recipe.config.groups import GROUPS
from recipe.errors import Problems

Rule = Callable[[], Iterator[str] | None]


def find_problems(planned: PlannedRun, failed_groups: set[str]) -> Problems:
    """The conflicts that the rules find; those of `failed_groups` are not applied."""
    problems = Problems()
    for group in GROUPS:
        if group not in failed_groups:
            for rule in _find_rules(planned, group, check):
                with (
                    problems.collect_component_errors(planned.choice(group)),
                    suppress(MissingComponent),
                ):
                    problems.extend(rule() or ())
    return problems


def find_warnings(planned: PlannedRun) -> list[str]:
    """The cautions about a run of which every part could be built."""
    return [
        line
        for group in GROUPS
        for rule in _find_rules(planned, group, caution)
        for line in rule() or ()
    ]


def describe_component(planned: PlannedRun, group: str) -> str | None:
    """The registered description of a group's component, if there is one."""
    bound = planned.components[group].bind()
    own = describe.find(bound.func)
    return own(planned, **bound.keywords) if own else None


def _find_rules(planned: PlannedRun, group: str, hook: Hook) -> Iterator[Rule]:
    if of_group := hook.find(group):
        yield lambda: of_group(planned)
    component = planned.components[group]
    if of_component := hook.find(component.function):
        yield lambda: of_component(planned, **component.bind().keywords)
