"""Clipping: what is cut, what is left alone to the bit, and what is reported."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from conftest import Build
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recipe.components.clip.agc import agc
from recipe.components.clip.none import none
from recipe.components.clip.norm import norm
from recipe.components.clip.value import value
from recipe.training.loop import train


def parameter(
    grad: list[float] | Tensor, weight: list[float] | Tensor | None = None
) -> nn.Parameter:
    """A parameter with this gradient; its weights are ones unless given."""
    grad = torch.as_tensor(grad)
    p = nn.Parameter(torch.ones_like(grad) if weight is None else torch.as_tensor(weight))
    p.grad = grad.clone()
    return p


def gradients(params: list[nn.Parameter]) -> list[object]:
    return [p.grad.tolist() for p in params if p.grad is not None]


def three_four_twelve() -> list[nn.Parameter]:
    """Two gradients, (3, 4) and (12); together the length is 13, the sum of sizes 19."""
    return [parameter([3.0, 4.0]), parameter([12.0])]


def assert_reported(result: tuple[Tensor, Tensor], norm: float, bit: bool) -> None:
    before, changed = result
    assert before.shape == changed.shape == ()
    assert changed.dtype == torch.bool
    assert before.item() == pytest.approx(norm)
    assert changed.item() is bit


# none


def test_clip_none_reports_the_norm_and_changes_nothing() -> None:
    params = three_four_twelve()
    assert_reported(none(params), norm=13.0, bit=False)
    assert gradients(params) == [[3.0, 4.0], [12.0]]


# norm


def test_norm_above_the_limit_is_scaled_to_the_limit() -> None:
    params = three_four_twelve()
    assert_reported(norm(params, max_norm=6.5, norm_type=2), norm=13.0, bit=True)
    torch.testing.assert_close(params[0].grad, torch.tensor([1.5, 2.0]))  # times 6.5 / 13
    torch.testing.assert_close(params[1].grad, torch.tensor([6.0]))


@pytest.mark.parametrize("max_norm", [13.0, 20.0])
def test_norm_up_to_the_limit_leaves_gradients_bit_identical(max_norm: float) -> None:
    params = three_four_twelve()
    assert_reported(norm(params, max_norm=max_norm, norm_type=2), norm=13.0, bit=False)
    assert gradients(params) == [[3.0, 4.0], [12.0]]


def test_norm_at_its_smallest_limit_keeps_smaller_gradients() -> None:
    p = parameter([5e-7])
    assert_reported(norm([p], max_norm=1e-6, norm_type=2), norm=5e-7, bit=False)
    assert gradients([p]) == [[torch.tensor(5e-7).item()]]


def test_norm_is_reported_in_the_configured_norm_type() -> None:
    params = three_four_twelve()
    assert_reported(norm(params, max_norm=1.9, norm_type=1), norm=19.0, bit=True)
    torch.testing.assert_close(params[1].grad, torch.tensor([1.2]))  # 12 * 1.9 / 19
    params = three_four_twelve()
    assert_reported(norm(params, max_norm=6.0, norm_type=math.inf), norm=12.0, bit=True)
    torch.testing.assert_close(params[0].grad, torch.tensor([1.5, 2.0]))  # times 6 / 12


def test_norm_of_infinite_gradients_is_reported_as_infinite() -> None:
    before, _ = norm([parameter([math.inf, 1.0])], max_norm=1.0, norm_type=2)
    assert before.item() == math.inf


@settings(max_examples=50)
@given(
    grads=st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=4), min_size=1),
    max_norm=st.floats(1e-3, 1e3),
    norm_type=st.sampled_from([1.0, 2.0, math.inf]),
)
def test_norm_matches_torch_clip_grad_norm(
    grads: list[list[float]], max_norm: float, norm_type: float
) -> None:
    ours, theirs = ([parameter(grad) for grad in grads] for _ in range(2))
    before, _ = norm(ours, max_norm=max_norm, norm_type=norm_type)
    expected = nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    torch.testing.assert_close(before, expected)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1.1e-3, atol=0)  # 1e-6 of a norm of 1e-3


# value


def test_value_clips_each_entry_independently() -> None:
    params = [parameter([3.0, -4.0]), parameter([0.0])]
    assert_reported(value(params, max_value=3.5), norm=5.0, bit=True)
    assert gradients(params) == [[3.0, -3.5], [0.0]]


def test_value_exactly_at_the_limit_is_not_clipped() -> None:
    p = parameter([3.0, -4.0])
    assert_reported(value([p], max_value=4.0), norm=5.0, bit=False)
    assert gradients([p]) == [[3.0, -4.0]]


def test_value_clips_infinite_entries_and_reports_an_infinite_norm() -> None:
    p = parameter([-math.inf, 0.5])
    assert_reported(value([p], max_value=1.0), norm=math.inf, bit=True)
    assert gradients([p]) == [[-1.0, 0.5]]


# agc


def test_agc_clips_only_units_above_limit() -> None:
    p = parameter(torch.tensor([[9.0], [0.1]]), torch.tensor([[2.0], [2.0]]))
    assert_reported(agc([p], ratio=0.1, eps=1e-3), norm=math.hypot(9.0, 0.1), bit=True)
    torch.testing.assert_close(p.grad, torch.tensor([[0.2], [0.1]]))  # limit: 0.1 * 2.0


def test_agc_treats_filter_as_one_unit() -> None:
    weight = torch.tensor([3.0, 4.0, 0.0, 0.0, 6.0, 8.0, 0.0, 0.0]).reshape(2, 1, 2, 2)  # 5 and 10
    grad = torch.tensor([0.6, 0.8, 0.0, 0.0, 0.6, 0.8, 0.0, 0.0]).reshape(2, 1, 2, 2)  # 1 and 1
    p = parameter(grad, weight)
    agc([p], ratio=0.1, eps=1e-3)  # limits: 0.5 and 1.0
    expected = torch.tensor([0.3, 0.4, 0.0, 0.0, 0.6, 0.8, 0.0, 0.0]).reshape(2, 1, 2, 2)
    torch.testing.assert_close(p.grad, expected)


def test_agc_treats_bias_as_one_unit() -> None:
    p = parameter([6.0, 8.0], [3.0, 4.0])
    assert_reported(agc([p], ratio=1.0, eps=1e-3), norm=10.0, bit=True)
    torch.testing.assert_close(p.grad, torch.tensor([3.0, 4.0]))  # 10 down to |weight| = 5


def test_agc_limits_zero_weight_by_eps() -> None:
    p = parameter(torch.tensor([[1.0]]), torch.tensor([[0.0]]))
    agc([p], ratio=0.5, eps=1e-3)
    torch.testing.assert_close(p.grad, torch.tensor([[5e-4]]))


def test_agc_leaves_gradient_exactly_at_limit_unchanged() -> None:
    p = parameter(torch.tensor([[0.5], [0.0]]), torch.tensor([[2.0], [0.0]]))
    assert_reported(agc([p], ratio=0.25, eps=1e-3), norm=0.5, bit=False)
    assert gradients([p]) == [[[0.5], [0.0]]]


def test_agc_supports_scalar_parameter() -> None:
    p = parameter(torch.tensor(-8.0), torch.tensor(2.0))
    assert_reported(agc([p], ratio=0.5, eps=1e-3), norm=8.0, bit=True)
    assert p.grad is not None and p.grad.item() == pytest.approx(-1.0)


# all


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3))
def test_clipped_is_reported_exactly_if_a_gradient_changed(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(3, 2, generator=generator), torch.randn(3, generator=generator)]
    grads = [scale * torch.randn(w.shape, generator=generator) for w in weights]
    clips: list[Callable[[list[nn.Parameter]], tuple[Tensor, Tensor]]] = [
        none,
        partial(norm, max_norm=1.0, norm_type=2),
        partial(value, max_value=1.0),
        partial(agc, ratio=1.0, eps=1e-3),
    ]
    for clip in clips:
        params = [parameter(grad, weight) for grad, weight in zip(grads, weights, strict=True)]
        before, bit = clip(params)
        torch.testing.assert_close(before, torch.cat([g.flatten() for g in grads]).norm())
        changed = any(
            not torch.equal(p.grad, grad)
            for p, grad in zip(params, grads, strict=True)
            if p.grad is not None
        )
        assert bit.item() is changed


def test_norm_without_gradients_is_zero() -> None:
    assert_reported(none([]), norm=0.0, bit=False)
    assert_reported(norm([], max_norm=1.0, norm_type=2), norm=0.0, bit=False)
    assert_reported(value([], max_value=1.0), norm=0.0, bit=False)
    assert_reported(agc([], ratio=0.1, eps=1e-3), norm=0.0, bit=False)


def test_agc_clips_layers_unfrozen_later(built: Build) -> None:
    """Both at their defaults: the head alone, which agc leaves unclipped, is trained for two
    epochs."""
    run = built("clip=agc", "freeze=gradual", "model.widths=[2,2,2,2]", "epochs=7")
    rates = [p.metrics["clip/hit_rate"] for p in train(run) if p.is_epoch_end]
    assert rates[:2] == [0.0, 0.0] and rates[2] > 0
