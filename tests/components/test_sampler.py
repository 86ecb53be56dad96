"""The order of an epoch: which sample comes when, and how often each class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recipe.audit.auditor import Audit
from recipe.components.sampler.balanced import audit_balanced, balanced, samples_per_class
from recipe.config.spec import RunSpec
from recipe.errors import SpecError
from recipe.nn import rng
from recipe.training import build
from recipe.training.loop import train
from recipe.training.run import Run, epoch_batches

TARGETS = torch.tensor([0] * 16 + [1] * 4 + [2] * 4)


def drawn(power: float, seed: int = 0) -> Tensor:
    return balanced(TARGETS, torch.Generator().manual_seed(seed), power=power)


@pytest.mark.parametrize(
    ("power", "counts"),
    [
        (1.0, [8, 8, 8]),
        (0.5, [12, 6, 6]),  # the square roots are 4, 2 and 2
        (1e-9, [16, 4, 4]),
    ],
)
def test_class_draws_are_proportional_to_size_to_one_minus_power(
    power: float, counts: list[int]
) -> None:
    assert samples_per_class(TARGETS, power).tolist() == counts
    assert TARGETS[drawn(power)].bincount().tolist() == counts


def test_samples_per_class_are_rounded_by_largest_remainder() -> None:
    # 7 samples over 3 classes: 2 1/3 each, so one class gets the one that is left
    assert samples_per_class(torch.tensor([0, 0, 0, 0, 0, 1, 2]), 1.0).tolist() == [3, 2, 2]
    # a class without samples gets none
    assert samples_per_class(torch.tensor([0, 0, 2, 2]), 1.0).tolist() == [2, 0, 2]


def test_samples_repeat_only_after_all_others_of_their_class() -> None:
    times = drawn(1.0).bincount(minlength=24)
    assert times[:16].sum() == 8 and times[:16].max() == 1  # half of the large class, each once
    assert times[16:].tolist() == [2] * 8  # the small ones twice


def test_sampler_order_depends_only_on_the_generator() -> None:
    assert torch.equal(drawn(1.0), drawn(1.0))
    assert not torch.equal(drawn(1.0), drawn(1.0, seed=1))
    assert not torch.equal(TARGETS[drawn(1.0)], TARGETS[drawn(1.0)].sort().values)


def test_default_epoch_order_equals_torch_randperm(built: Callable[..., Run]) -> None:
    run = built()
    plain = torch.randperm(20, generator=rng.make_generator(0, "order", 1)).split(8)
    assert all(map(torch.equal, epoch_batches(run, 1), plain))


def test_balanced_sampler_draws_classes_equally_in_every_epoch(
    small: Callable[..., RunSpec], built: Callable[..., Run]
) -> None:
    spec = small("sampler=balanced")
    run = build.build(spec)
    with Audit(spec, run) as audit:
        verdicts = [audit.check(point) for point in train(run)][-1]
    found = next(v for v in verdicts if v.group == "sampler")
    assert found.has_passed and found.no_effect_reason is None
    for epoch in (0, 1):
        indices = torch.cat(list(epoch_batches(run, epoch)))
        assert sorted(run.data.train.targets[indices].bincount().tolist()) == [6, 7, 7]
    assert run.total_steps == built().total_steps


def test_audit_reports_a_class_drawn_too_often() -> None:
    assert list(audit_balanced(TARGETS, torch.arange(24), power=1.0)) == [
        "class 0 is drawn 16 times an epoch, not 8",
        "class 1 is drawn 4 times an epoch, not 8",
        "class 2 is drawn 4 times an epoch, not 8",
    ]


def backwards(targets: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randperm(len(targets), generator=generator).flip(0)


def usual(targets: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randperm(len(targets), generator=generator)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((f"sampler._target_={__name__}.backwards", f"trust=[{__name__}]"), None),
        (
            (f"sampler._target_={__name__}.usual", f"trust=[{__name__}]"),
            "every epoch's order is that of sampler=shuffled",
        ),
        (("sampler=balanced", "sampler.power=1e-9"), None),  # the classes as before, the order not
    ],
)
def test_sampler_has_no_effect_only_with_default_order(
    small: Callable[..., RunSpec], arguments: tuple[str, ...], why: str | None
) -> None:
    spec = small(*arguments)
    spec = replace(spec, options={**spec.options, "sampler": "mine"})
    run = build.build(spec)
    with Audit(spec, run) as audit:
        verdicts = [audit.check(point) for point in train(run)][-1]
    found = next(v for v in verdicts if v.group == "sampler")
    assert found.has_passed and found.no_effect_reason == why


def half(targets: Tensor, generator: torch.Generator) -> Tensor:
    return torch.arange(len(targets) // 2)


def beyond(targets: Tensor, generator: torch.Generator) -> Tensor:
    return torch.arange(len(targets)) + 1


def chance(targets: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randperm(len(targets))


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ("half", "returns (10,), torch.int64, on cpu; return as many indices "
         "as there are training samples, (20,), int64, on the cpu"),
        ("beyond", "returns indices from 1 to 20; return indices from 0 to 19"),
        ("chance", "draws from a global random stream; use only the generator "
         "that it is given"),
    ],
)  # fmt: skip
def test_user_sampler_breaking_contract_is_rejected(
    built: Callable[..., Run], part: str, problem: str
) -> None:
    with pytest.raises(SpecError) as caught:
        built(f"sampler._target_={__name__}.{part}", f"trust=[{__name__}]")
    assert caught.value.problems == [f"sampler._target_={__name__}.{part} {problem}"]


def test_balanced_sampler_with_class_weights_is_rejected(built: Callable[..., Any]) -> None:
    with pytest.raises(SpecError, match="gives them more weight as well; use only one of them"):
        built("sampler=balanced", "loss=class_weights")
