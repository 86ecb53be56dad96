"""Stochastic depth: in the ResNet of ours, and through the setting of the same name in timm's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from resumed_runs import assert_resumes_after_a_step
from torch import nn

from recipe.components.model.resnet import ResidualBlock, resnet
from recipe.config.spec import RunSpec
from recipe.training.loop import train
from recipe.training.run import Run

RESNET = ("model=resnet", "model.widths=[2,4]", "model.drop_path=0.5")


def block(drop: float) -> ResidualBlock:
    """Its convolutions give 1 for every image, its shortcut what comes in."""
    made = ResidualBlock(1, 1, 1, drop)
    with torch.no_grad():
        made.batchnorm2.weight.fill_(0.0)
        made.batchnorm2.bias.fill_(1.0)
    return made


def test_block_is_dropped_at_given_rate_and_rescaled_otherwise() -> None:
    torch.manual_seed(0)
    out = block(0.75)(torch.full((400, 1, 2, 2), 3.0))
    dropped, kept = (out == 3.0).all(dim=(1, 2, 3)), (out == 7.0).all(dim=(1, 2, 3))
    assert bool((dropped | kept).all())  # 3, or 3 + 1 / (1 - 0.75)
    assert 270 <= dropped.sum() <= 330  # 300 expected, standard deviation 8.7


def test_drop_path_keeps_every_block_in_evaluation() -> None:
    out = block(0.75).eval()(torch.full((9, 1, 2, 2), 3.0))
    assert torch.equal(out, torch.full((9, 1, 2, 2), 4.0))


def test_drop_path_probability_grows_linearly_to_the_last_block() -> None:
    model = resnet(channels=1, classes=3, widths=[2, 4, 4], blocks=2, drop_path=0.6)
    shares = [
        layer.stochastic_depth.p for layer in model.children() if isinstance(layer, ResidualBlock)
    ]
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


def test_mid_epoch_resume_drops_same_blocks(small: Callable[..., RunSpec]) -> None:
    assert_resumes_after_a_step(small(*RESNET))


def test_frozen_blocks_with_drop_path_are_not_cached(built: Callable[..., Run]) -> None:
    frozen = (*RESNET, "freeze=by_name", "freeze.names=['convolution.*','batchnorm.*','stage1_*']")
    kept, anew = built(*frozen), built(*frozen, "freeze.cache=off")
    for run in (kept, anew):
        list(train(run))
    for ours, theirs in zip(kept.model.parameters(), anew.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("torchvision")
def test_timm_models_use_the_given_drop_path_at_the_last_block(built: Callable[..., Run]) -> None:
    model = built(
        "model=timm", "model.name=test_resnet", "model.drop_path=0.5", "data.size=32"
    ).model  # fmt: skip
    from timm.layers import DropPath

    layers: list[nn.Module] = [m for m in model.modules() if isinstance(m, DropPath)]
    assert layers and layers[-1].drop_prob == pytest.approx(0.5)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)  # timm begins with branches that give 0
    images = torch.randn(8, 1, 32, 32)
    model.train()
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))
