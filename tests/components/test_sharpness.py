"""Sharpness-aware minimisation: the gradient at the worst point near the weights, and nothing else
moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from recipe.audit.auditor import Audit, AuditResult
from recipe.components.sharpness.none import none
from recipe.components.sharpness.sam import sam
from recipe.config.spec import RunSpec
from recipe.training import build
from recipe.training.loop import train
from recipe.training.run import Run
from recipe.training.step_components import StepComponent

DROPS = ("model.dropout=0.5", "augment=flip_crop")


def verdict(spec: RunSpec, run: Run) -> AuditResult:
    with Audit(spec, run) as audit:
        verdicts = [audit.check(point) for point in train(run)][-1]
    return next(v for v in verdicts if v.group == "sharpness")


def test_sam_gradient_is_computed_at_distance_rho_uphill() -> None:
    # loss a^2 / 2 + 2 b^2 at (3, 1): gradient (3, 4), of length 5; 0.5 uphill is (3.3, 1.4)
    w = nn.Parameter(torch.tensor([3.0, 1.0]))

    def again() -> None:
        w.grad = None
        (w[0] ** 2 / 2 + 2 * w[1] ** 2).backward()

    again()
    sam([w], again, rho=0.5)
    assert w.grad is not None
    torch.testing.assert_close(w.grad, torch.tensor([3.3, 5.6]))
    assert w.tolist() == [3.0, 1.0]


def test_sam_uses_the_global_gradient_norm_for_any_loss_scale() -> None:
    found = []
    for scale in (1.0, 1024.0):
        a, b = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([2.0]))

        def again(a: nn.Parameter = a, b: nn.Parameter = b, scale: float = scale) -> None:
            a.grad = b.grad = None
            (scale * (a.square() / 2 + b.square())).backward()

        again()  # gradients 3 and 4
        sam([a, b], again, rho=1.0)  # 0.6 and 0.8 uphill
        assert a.grad is not None and b.grad is not None
        found.append([a.grad.item() / scale, b.grad.item() / scale])
    assert found[0] == pytest.approx([3.6, 5.6]) == found[1]


def test_sam_keeps_a_zero_gradient() -> None:
    w = nn.Parameter(torch.zeros(2))

    def again() -> None:
        w.grad = None
        w.square().sum().backward()

    again()
    sam([w], again, rho=0.5)
    assert w.grad is not None and w.grad.tolist() == [0.0, 0.0]


def test_sam_restores_weights_if_the_second_pass_fails() -> None:
    w = nn.Parameter(torch.ones(2))
    w.grad = torch.ones(2)

    def again() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        sam([w], again, rho=0.5)
    assert w.tolist() == [1.0, 1.0]


def test_sam_second_pass_changes_no_batchnorm_or_random_streams(built: Callable[..., Run]) -> None:
    """After one step only the weights differ from those of a run without: BatchNorm saw the batch
    once, at the same weights, and dropout drew as often."""
    runs, streams = [], []
    for trick in ("sharpness=none", "sharpness=sam"):
        run = built(trick, *DROPS)
        next(train(run))
        runs.append(run)
        streams.append(torch.get_rng_state())
    plain, sharp = (dict(run.model.named_buffers()) for run in runs)
    assert all(torch.equal(plain[name], sharp[name]) for name in plain)
    assert torch.equal(*streams)
    weights = [run.model.get_parameter("convolution1_1.weight") for run in runs]
    assert not torch.equal(*weights)


def test_sharpness_passes_use_same_dropout_masks(built: Callable[..., Run]) -> None:
    """With the masks of the first pass, a step uphill raises the loss of that very pass."""
    run = built("model.dropout=0.5", "augment=none")
    seen: list[float] = []
    plain = run.loss

    def loss(output: Tensor, target: Tensor) -> Tensor:
        value = plain(output, target)
        seen.append(value.item())
        return value

    def twice(params: list[nn.Parameter], again: Callable[[], None]) -> None:
        again()  # where the weights are

    run.loss, run.sharpness = StepComponent(loss), StepComponent(twice)
    next(train(run))
    assert seen[0] == seen[1]


def test_audit_passes_sam_and_reports_a_negligible_rho(small: Callable[..., RunSpec]) -> None:
    spec = small("sharpness=sam", "accumulate=2", *DROPS)
    found = verdict(spec, build.build(spec))
    assert found.has_passed and found.no_effect_reason is None, found.problems
    spec = small("sharpness=sam", "sharpness.rho=1e-30")
    assert verdict(spec, build.build(spec)).no_effect_reason == "the gradients were unchanged"


def forgets(params: list[nn.Parameter], again: Callable[[], None]) -> None:
    for p in params:
        p.detach().add_(0.01)
    again()


def draws(params: list[nn.Parameter], again: Callable[[], None]) -> None:
    torch.rand(1)


def loses(params: list[nn.Parameter], again: Callable[[], None]) -> None:
    params[0].grad = None


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        (forgets, "it does not restore the weights (batch 1)"),
        (draws, "it draws from a global random stream (batch 1)"),
        (loses, "other parameters have a gradient than before (batch 1)"),
    ],
)
def test_audit_reports_a_broken_sharpness_component(
    small: Callable[..., RunSpec], part: Callable[..., None], problem: str
) -> None:
    spec = small()
    run = build.build(spec)
    run.sharpness = StepComponent(part)
    assert problem in verdict(spec, run).problems


def test_sharpness_none_keeps_the_gradient_without_a_second_pass() -> None:
    w = nn.Parameter(torch.ones(1))
    w.grad = torch.full((1,), 7.0)
    none([w], lambda: pytest.fail("a second pass"))
    assert w.grad.item() == 7.0
