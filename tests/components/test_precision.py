"""Precision: what a forward pass computes in, and whether the loss is scaled."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import Build, Compose
from torch import Tensor

from recipe.components.precision import AutocastAndScaler
from recipe.components.precision.bf16 import bf16
from recipe.components.precision.fp16 import fp16
from recipe.components.precision.fp32 import fp32
from recipe.training import build

CPU = torch.device("cpu")


def fp16_on(device: str) -> AutocastAndScaler:
    return fp16(
        torch.device(device),
        init_scale=1024.0,
        growth_factor=2.0,
        backoff_factor=0.5,
        growth_interval=100,
    )


def product_dtype(autocast: Any, device: str = "cpu") -> torch.dtype:
    ones = torch.ones(2, 2, device=device)
    with autocast():
        return (ones @ ones).dtype


def test_fp32_computes_in_float32() -> None:
    autocast, _ = fp32(CPU)
    assert product_dtype(autocast) == torch.float32


def test_bf16_computes_in_bfloat16_on_every_entry() -> None:
    autocast, _ = bf16(CPU)
    assert product_dtype(autocast) == product_dtype(autocast) == torch.bfloat16
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("precision", [fp32, bf16])
def test_disabled_scaler_leaves_loss_and_step_unchanged(precision: Any) -> None:
    _, scaler = precision(CPU)
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    scaler.scale((3 * weight).sum()).backward()
    scaler.unscale_(optimizer)
    assert weight.grad is not None and weight.grad.item() == 3.0
    scaler.step(optimizer)
    scaler.update()
    assert weight.item() == 0.5  # 2 - 0.5 * 3
    assert not scaler.is_enabled()


def test_fp16_on_a_cpu_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"^precision=fp16 needs a GPU[^\n]*use precision=bf16$"):
        fp16_on("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fp16_computes_in_float16_and_scales_the_loss() -> None:
    autocast, scaler = fp16_on("cuda")
    assert product_dtype(autocast, "cuda") == torch.float16
    assert scaler.scale(torch.ones((), device="cuda")).item() == 1024.0


def test_class_weights_are_not_rounded_in_bf16(built: Build) -> None:
    """3 and 7 of 10 samples in 2 classes weigh 10 / 6 and 10 / 14; of equal logits each sample's
    cross-entropy is log 2. In bfloat16 10 / 6 would be 1.6640625."""
    run = built("precision=bf16", "loss=class_weights", "loss.counts=[3,7]", "data.classes=2")
    output, target = torch.zeros(2, 2, dtype=torch.bfloat16), torch.tensor([0, 0])
    with run.autocast():
        loss = run.loss(output, target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(10 / 6 * math.log(2), rel=1e-6)


class Centred:
    """A loss with a weight, a statistic and a matrix product, all of the output's type."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        weight = torch.full((output.shape[1], 1), 1 / 3, dtype=output.dtype)
        return ((output - output.mean(0)) @ weight).square().mean()


@pytest.mark.parametrize(
    "option",
    ["cross_entropy", "label_smoothing", "mse_one_hot", "class_weights", f"{__name__}.Centred"],
)
def test_bf16_loss_equals_float32_loss_for_same_output(small: Compose, option: str) -> None:
    users = [f"loss._target_={option}", f"trust=[{__name__}]"]
    choice = users if "." in option else [f"loss={option}"]
    half, single = (build.build(small(f"precision={p}", *choice)) for p in ("bf16", "fp32"))
    output, target = torch.randn(8, 3).bfloat16(), torch.arange(8) % 3
    with half.autocast():
        found = half.loss(output, target)
    assert torch.equal(found, single.loss(output.float(), target))
