"""Precision: what a forward pass computes in, and whether the loss is scaled."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recipe.precision import Precision
from recipe.precision.bf16 import bf16
from recipe.precision.fp16 import fp16
from recipe.precision.fp32 import fp32

CPU = torch.device("cpu")


def fp16_on(device: str) -> Precision:
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


def test_fp32_computes_in_32_bits() -> None:
    autocast, _ = fp32(CPU)
    assert product_dtype(autocast) == torch.float32


def test_bf16_computes_in_bfloat16_each_time_it_is_entered() -> None:
    autocast, _ = bf16(CPU)
    assert product_dtype(autocast) == product_dtype(autocast) == torch.bfloat16
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("precision", [fp32, bf16])
def test_a_scaler_that_is_off_leaves_loss_and_step_alone(precision: Any) -> None:
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


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^precision=fp16 needs a GPU[^\n]*use precision=bf16$"):
        fp16_on("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fp16_computes_in_float16_and_scales_the_loss() -> None:
    autocast, scaler = fp16_on("cuda")
    assert product_dtype(autocast, "cuda") == torch.float16
    assert scaler.scale(torch.ones((), device="cuda")).item() == 1024.0
