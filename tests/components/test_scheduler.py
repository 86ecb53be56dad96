"""Schedules: their numbers, and that no option of the menu changes the ratio between groups."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from composed_specs import compose_spec
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from recipe.components.scheduler import build_scheduler
from recipe.components.scheduler.constant import constant
from recipe.components.scheduler.cosine import cosine
from recipe.components.scheduler.exponential import exponential
from recipe.components.scheduler.multistep import multistep
from recipe.components.scheduler.one_cycle import one_cycle
from recipe.components.scheduler.plateau import plateau
from recipe.components.scheduler.step import step
from recipe.components.scheduler.warmup_cosine import warmup_cosine
from recipe.config.instantiate import bind_component
from recipe.config.option_files import find_options
from recipe.config.spec import RunSpec


def optimizer_of(kind: Callable[..., Optimizer], *rates: float) -> Optimizer:
    return kind([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])


def walk(
    optimizer: Optimizer, schedule: LRScheduler, moves: int, metric: float = 1.0
) -> list[list[float]]:
    """The learning rates of all groups before the first move and after each one."""
    rates = [[group["lr"] for group in optimizer.param_groups]]
    for _ in range(moves):
        optimizer.step()
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(metric)
        else:
            schedule.step()
        rates.append([group["lr"] for group in optimizer.param_groups])
    return rates


def first_group(part: Callable[..., LRScheduler], moves: int, **kwargs: Any) -> list[float]:
    optimizer = optimizer_of(SGD, 1.0)
    return [rates[0] for rates in walk(optimizer, part(optimizer, **kwargs), moves)]


def test_constant_factor_is_always_1() -> None:
    assert [constant(progress) for progress in (0.0, 0.3, 1.0)] == [1.0, 1.0, 1.0]


def test_step_decays_every_step_size_moves() -> None:
    rates = first_group(step, 5, step_size=2, gamma=0.1)
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_multistep_decays_at_its_milestones() -> None:
    rates = first_group(multistep, 5, milestones=[1, 4], gamma=0.5)
    assert rates == pytest.approx([1, 0.5, 0.5, 0.5, 0.25, 0.25])


@pytest.mark.parametrize("milestones", [[20, 10], [10, 10]])
def test_milestones_that_do_not_increase_are_refused(milestones: list[int]) -> None:
    with pytest.raises(ValueError, match=r"^scheduler\.milestones must increase, .*; use \[10"):
        multistep(optimizer_of(SGD, 1.0), milestones=milestones, gamma=0.1)


def test_empty_milestones_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"^scheduler\.milestones .*use scheduler=constant$"):
        multistep(optimizer_of(SGD, 1.0), milestones=[], gamma=0.1)


def test_exponential_factor_shrinks_at_every_move() -> None:
    assert first_group(exponential, 3, gamma=0.5) == pytest.approx([1, 0.5, 0.25, 0.125])


def test_cosine_factor_falls_from_1_to_minimum() -> None:
    values = [cosine(progress, minimum=0.2) for progress in (0, 1 / 3, 0.5, 1)]
    assert values == pytest.approx([1, 0.8, 0.6, 0.2])  # 0.2 + 0.8 * (1, 0.75, 0.5, 0)


def test_warmup_cosine_rises_linearly_and_decays_as_a_cosine() -> None:
    values = [
        warmup_cosine(progress, warmup=0.2, start=0.5, minimum=0.2)
        for progress in (0, 0.1, 0.2, 0.6, 1)
    ]
    assert values == pytest.approx([0.5, 0.75, 1, 0.6, 0.2])


@given(
    progress=st.floats(0, 1),
    warmup=st.floats(0.01, 0.99),
    start=st.floats(0.01, 1),
    minimum=st.floats(0, 0.99),
)
def test_schedule_factors_stay_within_bounds(
    progress: float, warmup: float, start: float, minimum: float
) -> None:
    assert minimum - 1e-9 <= cosine(progress, minimum=minimum) <= 1 + 1e-9
    factor = warmup_cosine(progress, warmup=warmup, start=start, minimum=minimum)
    assert min(start, minimum) - 1e-9 <= factor <= 1 + 1e-9


@pytest.mark.parametrize(
    ("strategy", "expected"),
    # Rise from 0.25 over 2 moves, fall to 0.25 / 5 = 0.05 over 4; cos weighs (1, 1/2, 0) and
    # (1, 0.853553, 0.5, 0.146447, 0).
    [
        ("linear", [0.25, 0.625, 1, 0.7625, 0.525, 0.2875, 0.05]),
        ("cos", [0.25, 0.625, 1, 0.860876, 0.525, 0.189124, 0.05]),
    ],
)
def test_one_cycle_peaks_at_the_base_learning_rate(strategy: str, expected: list[float]) -> None:
    rates = first_group(
        one_cycle, 6, total=6, pct_start=1 / 3, div_factor=4, final_div_factor=5,
        anneal_strategy=strategy,
    )  # fmt: skip
    assert rates == pytest.approx(expected, abs=1e-6)


@given(total=st.integers(1, 50), pct_start=st.floats(0.01, 0.99))
@settings(max_examples=50)
def test_one_cycle_has_the_given_first_and_last_rate_for_any_length(
    total: int, pct_start: float
) -> None:
    rates = first_group(
        one_cycle, total, total=total, pct_start=pct_start, div_factor=4, final_div_factor=5,
        anneal_strategy="linear",
    )  # fmt: skip
    assert rates[0] == pytest.approx(0.25)
    assert rates[-1] == pytest.approx(0.05)
    assert all(0.05 - 1e-9 <= rate <= 1 + 1e-9 for rate in rates)


def test_one_cycle_does_not_change_the_momentum() -> None:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.7)
    schedule = one_cycle(
        optimizer, total=4, pct_start=0.5, div_factor=4, final_div_factor=5, anneal_strategy="cos"
    )
    walk(optimizer, schedule, 4)
    assert optimizer.param_groups[0]["momentum"] == 0.7


def plateau_of(optimizer: Optimizer, **changed: Any) -> ReduceLROnPlateau:
    settings: dict[str, Any] = {
        "mode": "min",
        "factor": 0.1,
        "patience": 1,
        "threshold": 0.0,
        "threshold_mode": "abs",
        "cooldown": 0,
    }
    return plateau(optimizer, **(settings | changed))


def rates_after(metrics: list[float], **changed: Any) -> list[float]:
    optimizer = optimizer_of(SGD, 1.0)
    schedule = plateau_of(optimizer, **changed)
    rates: list[float] = []
    for metric in metrics:
        schedule.step(metric)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_plateau_decays_when_patience_is_exhausted() -> None:
    assert rates_after([5, 4, 4, 4, 3]) == pytest.approx([1, 1, 1, 0.1, 0.1])


def test_plateau_in_max_mode_decays_without_improvement() -> None:
    assert rates_after([1, 2, 2, 2], mode="max") == pytest.approx([1, 1, 1, 0.1])


def test_plateau_ignores_improvements_below_the_threshold() -> None:
    # Better is below 5 - 0.5 = 4.5 in the metric's own unit, below 5 * (1 - 0.5) = 2.5 as a part.
    assert rates_after([5, 4.6, 4.6], threshold=0.5) == pytest.approx([1, 1, 0.1])
    assert rates_after([5, 4.4, 4.4], threshold=0.5) == pytest.approx([1, 1, 1])
    relative = {"threshold": 0.5, "threshold_mode": "rel"}
    assert rates_after([5, 2.6, 2.6], **relative) == pytest.approx([1, 1, 0.1])
    assert rates_after([5, 2.4, 2.4], **relative) == pytest.approx([1, 1, 1])


def test_plateau_waits_for_the_cooldown_after_a_decay() -> None:
    assert rates_after([5] * 5, patience=0) == pytest.approx([1, 0.1, 0.01, 1e-3, 1e-4])
    assert rates_after([5] * 5, patience=0, cooldown=1) == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


def test_plateau_keeps_the_ratio_between_groups_with_tiny_rates() -> None:
    optimizer = optimizer_of(SGD, 1e-6, 1e-9)  # torch's own eps stops a group below 1e-8
    rates = walk(optimizer, plateau_of(optimizer, patience=0), 3)
    assert [a / b for a, b in rates] == pytest.approx([1e3] * 4)


def scheduler_of(name: str, optimizer: Optimizer, moves: int) -> LRScheduler:
    """An option of the menu with its own settings, over a run of so many moves."""
    return build_scheduler(bind_component(of_the_menu(name), "scheduler"), optimizer, moves)


@functools.cache
def of_the_menu(name: str) -> RunSpec:
    return compose_spec(f"scheduler={name}")


@pytest.mark.parametrize("name", find_options("scheduler"))
@settings(max_examples=15)
@given(
    kind=st.sampled_from([SGD, Adam]),
    rate=st.floats(1e-6, 1.0),
    ratio=st.floats(1e-3, 1e3),
    moves=st.integers(1, 30),
)
def test_schedulers_keep_the_ratio_between_groups_at_every_move(
    name: str, kind: Callable[..., Optimizer], rate: float, ratio: float, moves: int
) -> None:
    optimizer = optimizer_of(kind, rate, rate * ratio)
    for first, second in walk(optimizer, scheduler_of(name, optimizer, moves), moves):
        assert second == pytest.approx(first * ratio, rel=1e-6, abs=0)


@pytest.mark.parametrize("name", sorted(find_options("scheduler").keys() - {"constant"}))
def test_every_schedule_except_constant_lowers_rate_within_twelve_moves(name: str) -> None:
    optimizer = optimizer_of(SGD, 1.0)
    rates = walk(optimizer, scheduler_of(name, optimizer, 12), 12)
    assert 0 <= rates[-1][0] < 0.5
    assert math.isfinite(rates[-1][0])
