"""Decorators that declare rules and call forms of components."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from recipe.components.clip.norm import check_norm, norm
from recipe.components.contract import audit, check, lr_factor, needs_model
from recipe.components.scheduler import build_scheduler, check_schedule


def test_function_is_found_by_registered_component_or_group() -> None:
    assert check.find(norm) is check_norm
    assert check.find(functools.partial(norm, max_norm=1.0)) is check_norm
    assert check.find("scheduler") is check_schedule
    assert check.find("clip") is None


def test_function_of_another_kind_is_not_found() -> None:
    def component() -> None: ...

    @audit(component)
    def audit_component() -> None: ...

    assert (check.find(component), audit.find(component)) == (None, audit_component)


def test_rules_and_call_forms_are_not_inherited_by_subclasses() -> None:
    @needs_model
    class Parent: ...

    @check(Parent)
    def check_parent() -> None: ...

    class Child(Parent): ...

    assert check.find(Parent) is check_parent
    assert check.find(Child) is None
    assert (needs_model.marks(Parent), needs_model.marks(Child)) == (True, False)


def test_lr_factor_without_decorator_raises_with_remedy() -> None:
    def half(progress: float) -> float:
        return 0.5

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(
        ValueError, match=r"returned 0.5, which is not .* mark a function .*lr_factor"
    ):
        build_scheduler(half, optimizer, 4)
    assert build_scheduler(lr_factor(half), optimizer, 4).get_last_lr() == [0.5]
