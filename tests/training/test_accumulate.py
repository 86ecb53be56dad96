"""A batch in parts: the gradient is that of the whole batch, and everything else as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from recipe.errors import SpecError
from recipe.training.loop import train
from recipe.training.run import Run, epoch_batches
from recipe.training.step_components import StepComponent

NO_NORM = ("model.batchnorm=false",)
"""BatchNorm sees the parts, so with it nothing is equal."""


def weights(run: Run) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


@pytest.mark.parametrize(
    "tricks",
    [(), ("augment=mixup", "clip=norm", "scheduler=step"), ("loss=class_weights",),
     ("sharpness=sam",), ("loss=label_smoothing", "augment=cutmix")],
    ids=lambda tricks: " ".join(tricks) or "plain",
)  # fmt: skip
@pytest.mark.parametrize("parts", [3, 8])
def test_accumulated_gradients_give_the_weights_of_full_batches(
    built: Callable[..., Run], tricks: tuple[str, ...], parts: int
) -> None:
    """Batches of 8, 8 and 4: in 3 parts 3 + 3 + 2 and 2 + 1 + 1 samples, in 8 one by one."""
    whole, divided = built(*NO_NORM, *tricks), built(*NO_NORM, *tricks, f"accumulate={parts}")
    for one, other in zip(train(whole), train(divided), strict=True):
        assert (one.step, one.epoch) == (other.step, other.epoch)
        for key, value in one.metrics.items():
            if not key.startswith(("time/", "memory/")):
                assert other.metrics[key] == pytest.approx(value, abs=1e-5), key
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(divided)[name], weight, rtol=0.0, atol=1e-6)


def test_micro_batches_are_weighted_by_their_samples(built: Callable[..., Run]) -> None:
    run = built(*NO_NORM, "accumulate=3")
    sizes: list[int] = []
    gradients: list[Tensor] = []
    plain, clip = run.loss, run.clip

    def loss(output: Tensor, target: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            sizes.append(len(target))
        return plain(output, target)

    def keep(params: list[torch.nn.Parameter]) -> tuple[Tensor, Tensor]:
        gradients.append(run.model.get_parameter("classifier.bias").grad.clone())  # type: ignore
        return clip(params)

    run.loss, run.clip = StepComponent(loss), StepComponent(keep)
    before = [p.detach().clone() for p in run.model.parameters()]
    next(train(run))
    assert sizes == [3, 3, 2]
    with torch.no_grad():
        for p, value in zip(run.model.parameters(), before, strict=True):
            p.copy_(value)
    inputs, targets = next(iter(run.data.train.batches([next(epoch_batches(run, 0))])))
    functional.cross_entropy(run.model(inputs), targets).backward()
    wanted = run.model.get_parameter("classifier.bias").grad
    torch.testing.assert_close(gradients[0], wanted, rtol=0.0, atol=1e-6)


def test_steps_schedule_and_checkpoints_are_those_of_full_batches(
    built: Callable[..., Run],
) -> None:
    whole, divided = built("scheduler=cosine"), built("scheduler=cosine", "accumulate=2")
    for run in (whole, divided):
        for _ in train(run):
            pass
    assert whole.position.step == divided.position.step == 6
    assert whole.lr_schedule.scheduler.last_epoch == divided.lr_schedule.scheduler.last_epoch


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("accumulate=9",), "accumulate is 9, but a batch has 8 samples; use 8 or less"),
        (("model=resnet", "model.widths=[2,2,2,2,2]", "accumulate=4"),  # 4 samples in parts of one
         "accumulate is 4, which leaves one sample for a part of a batch, and model=resnet can't "
         "learn from one: Expected more than 1 value per channel when training, got input size "
         "torch.Size([1, 2, 1, 1]); use a smaller one, or another data.batch_size"),
    ],
)  # fmt: skip
def test_batches_too_small_to_accumulate_are_rejected(
    built: Callable[..., Run], overrides: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(SpecError) as caught:
        built(*overrides)
    assert caught.value.problems == [problem]


def summed(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output, target, reduction="sum")


def test_accumulate_rejects_loss_other_than_mean_over_samples(built: Callable[..., Run]) -> None:
    with pytest.raises(
        SpecError, match=r"^accumulate is 2, but loss\._target_=.*summed isn't the mean"
    ):
        built("accumulate=2", f"loss._target_={__name__}.summed", f"trust=[{__name__}]")
