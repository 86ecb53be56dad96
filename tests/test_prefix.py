"""What is frozen is computed once, and nothing but the time it takes says so."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recipe.train import Run, train

Build = Callable[..., Run]
Points = list[dict[str, float]]

CLOCKED = ("time/", "memory/")


def followed(run: Run) -> Points:
    """Every number of a run, less those of the clock."""
    return [
        {key: value for key, value in point.metrics.items() if not key.startswith(CLOCKED)}
        for point in train(run)
    ]


def tensors(run: Run) -> dict[str, Tensor]:
    models = {"": run.model, "average.": run.average.model, "best.": None}
    found = {f"best.{name}": value for name, value in run.best.weights.items()}
    for prefix, model in models.items():
        if model is not None:
            found |= {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    return found


def alike(built: Build, *overrides: str) -> str:
    """Trains with and without; the same numbers must come of both. What was done, in words."""
    once = built(*overrides)
    each_time = built(*overrides, "freeze.cache=off")
    assert followed(once) == followed(each_time)
    mine, theirs = tensors(once), tensors(each_time)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    assert torch.equal(torch.get_rng_state(), torch.get_rng_state())
    assert each_time.prefix.said() == "computed each time: freeze.cache=off"
    said = once.prefix.said()
    assert said is not None
    return said


def kind(name: str, *frozen: str) -> tuple[str, ...]:
    return (
        "model=mlp", "model._target_=cached_models.model", f"+model.kind={name}",
        "trust=[cached_models]", "freeze=by_name", f"freeze.names=[{','.join(frozen)}]",
        "epochs=3", "optimizer.momentum=0.9",
    )  # fmt: skip


# Models that can be cut


def test_a_vgg_is_cut_behind_its_frozen_blocks(built: Build) -> None:
    said = alike(built, "freeze=first_layers", "freeze.count=2", "model.dropout=0.5", "epochs=3")
    # 2 x 9 x 256 and 2 x 2 x 9 x 256 of them, next to 2 x 4 x 9 x 64 + 4 x 4 x 9 x 64 + 4 x 3
    share = 100 * 13824 / (13824 + 4608 + 9216 + 12)
    # after the pooling 2 channels of 8 x 8 floats
    assert said == (
        f"computed once up to batchnorm1_2 ({share:.1f} % of the multiply-adds), 512 B a sample"
    )


def test_a_resnet_is_cut_inside_a_block(built: Build) -> None:
    names = "[convolution,batchnorm,stage1_1.convolution1,stage1_1.batchnorm1]"
    said = alike(built, "model=resnet", "model.widths=[2,4]", "freeze=by_name", "epochs=3",
                 f"freeze.names={names}")  # fmt: skip
    # the shortcut and what goes on, 2 channels of 16 x 16 floats each
    assert said.startswith("computed once up to stage1_1.batchnorm1 (")
    assert said.endswith(", 4.0 KiB a sample")


@pytest.mark.parametrize(
    ("name", "frozen", "last"),
    [
        ("unet", ["down1", "down2", "middle"], "middle"),
        ("vit", ["patches", "token", "positions", "blocks.0"], "blocks.0.out"),
        ("twice", ["first", "second"], "second"),
        ("sequence", ["first", "second"], "second"),
        ("windows", ["first"], "first"),
        ("channels_last", ["first"], "first"),
        ("largest", ["first", "second"], "first"),
    ],
)
@pytest.mark.parametrize("trick", ["", "average=ema", "average=swa", "precision=bf16"])
def test_a_model_of_any_kind_gives_the_same_bits(
    built: Build, name: str, frozen: list[str], last: str, trick: str
) -> None:
    tricks = [trick] if trick else []
    said = alike(built, *kind(name, *frozen), *tricks)
    assert re.match(rf"computed once up to {re.escape(last)} \(", said)


# Models that can't


@pytest.mark.parametrize(
    ("name", "frozen", "reason"),
    [
        ("branch", ["first", "second"], "the model can't be traced (symbolically traced variables"),
        ("chance", ["first"], "the model draws random numbers that don't show in its graph"),
        ("counts", ["first"], "passes changes from one pass to the next"),
        ("in_place", ["first", "second"], "flatten is changed in place and read again by view"),
        ("tied", ["third"], "nothing to save before first.weight, which is trained"),
        ("follows", ["first"], "nothing to save before scale, which moves"),
        (
            "mixes",
            ["first"],
            "nothing to save before sub, where the samples of a batch act on each",
        ),
        ("plain", ["second"], "nothing to save before first.weight, which is trained"),
    ],
)
def test_a_model_that_can_t_be_cut_is_computed_each_time_and_says_why(
    built: Build, name: str, frozen: list[str], reason: str
) -> None:
    said = alike(built, *kind(name, *frozen))
    assert said.startswith(f"computed each time: {reason}")
