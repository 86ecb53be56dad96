"""Channels last and torch.compile: other bits, the same results within a stated tolerance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import commands
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from recipe.errors import SpecError
from recipe.nn import memory_format
from recipe.training.loop import train
from recipe.training.run import Run, epoch_batches

Build = Callable[..., Run]

TOLERANCE = 1e-4
"""Of the losses of two epochs, in which sums were formed in another order."""


def losses(run: Run) -> list[float]:
    return [p.metrics["train/loss"] for p in train(run) if not p.is_epoch_end]


def convolutions(model: nn.Module) -> list[torch.Tensor]:
    return [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]


def lies_channels_last(weight: torch.Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last)


def test_on_a_cpu_convolutions_are_channels_last_by_default(built: Build) -> None:
    wide = [w for w in convolutions(built("channels_last=auto").model) if w.shape[1] > 1]
    assert wide and all(map(lies_channels_last, wide))
    plain = [w for w in convolutions(built("channels_last=false").model) if w.shape[1] > 1]
    assert plain and not any(map(lies_channels_last, plain))


def test_the_memory_format_changes_only_last_bits(built: Build) -> None:
    last, plain = built("channels_last=true"), built("channels_last=false")
    assert losses(last) == pytest.approx(losses(plain), abs=TOLERANCE)
    for one, other in zip(last.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=TOLERANCE)


def test_a_model_with_wrong_gradients_in_channels_last_is_not_converted(built: Build) -> None:
    """oneDNN #6035: on some processors heap corruption, wrong gradients or a hang."""
    few, enough = ("model=resnet", "model.widths=[2,4]"), ("model=resnet", "model.widths=[16,4]")
    with pytest.raises(SpecError) as refused:
        built(*few, "channels_last=true")
    (told,) = refused.value.problems
    assert told.startswith(
        "channels_last: stage2_1.shortcut.0 is a strided 1x1 convolution of fewer than 16 channels"
    )
    assert told.endswith("; use channels_last=auto or false")
    left = built(*few, "channels_last=auto")
    assert losses(left) == losses(built(*few, "channels_last=false"))
    wide = [w for w in convolutions(built(*enough, "channels_last=auto").model) if w.shape[1] > 1]
    assert all(map(lies_channels_last, wide))


def test_a_model_with_group_norm_is_not_converted() -> None:
    """Channels last, torch 2.13 ends the process in its gradient if all before it is frozen."""
    given = nn.Sequential(nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4))
    given[0].requires_grad_(False)
    model = memory_format.to_memory_format(given, torch.device("cpu"), "auto")
    assert not any(map(lies_channels_last, convolutions(model)))
    model(torch.rand(2, 4, 5, 5)).sum().backward()
    with pytest.raises(SpecError, match=r"channels_last: 1 is a GroupNorm: .* frozen; use"):
        memory_format.to_memory_format(given, torch.device("cpu"), True)


def test_in_the_default_format_a_run_is_bit_identical_to_a_loop_written_by_hand(
    built: Build,
) -> None:
    ours, byhand = built("channels_last=false"), built("channels_last=false")
    by_hand = []
    for epoch in range(byhand.epochs):
        byhand.model.train()
        for inputs, targets in byhand.data.train.batches(epoch_batches(byhand, epoch)):
            byhand.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(byhand.model(inputs), targets)
            loss.backward()
            byhand.optimizer.step()
            by_hand.append(loss.item())
    assert losses(ours) == by_hand
    for one, other in zip(ours.model.parameters(), byhand.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_weights_are_recorded_and_loaded_in_either_memory_format(tmp_path: Path) -> None:
    assert commands.run(tmp_path, *commands.QUICK, "tracking=none").status == 0
    (first,) = commands.run_dirs(tmp_path)
    file = first / "model.safetensors"
    assert all(tensor.is_contiguous() for tensor in load_file(file).values())
    for wanted in ("true", "false"):
        done = commands.run(
            tmp_path, *commands.QUICK, "tracking=none", f"model.weights={file}",
            f"channels_last={wanted}",
        )  # fmt: skip
        assert done.status == 0, done.err


def test_the_memory_format_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    for wanted in ("true", "false"):
        command = (*commands.QUICK, "tracking=none", f"channels_last={wanted}")
        assert commands.run(tmp_path, *command).status == 0
    assert len(list((tmp_path / "outputs" / "fingerprints").iterdir())) == 2


def test_a_compiled_model_learns_like_the_plain_one(built: Build) -> None:
    small = ("model=mlp", "model.hidden=[8]", "epochs=1")
    compiled, plain = built(*small, "compile=true"), built(*small, "compile=false")
    assert losses(compiled) == pytest.approx(losses(plain), abs=TOLERANCE)
    assert [n for n, _ in compiled.model.named_parameters()] == [
        n for n, _ in plain.model.named_parameters()
    ]


def test_compile_without_a_compiler_is_rejected(
    built: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(SpecError) as refused:
        built("compile=true")
    assert list(refused.value.problems) == [
        "compile: needs a C++ compiler on the CPU, and this machine has none; install g++, or use "
        "compile=false"
    ]
