"""What is frozen is computed once, and nothing but the time it takes says so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import cached_models
import commands
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from run_equality import alike as alike_recorded
from run_equality import finished
from stopped_runs import QUIET, project, stopped
from torch import Tensor

from recipe.components.data import InMemory
from recipe.nn import rng
from recipe.training.loop import train
from recipe.training.nonfinite import NonFiniteError
from recipe.training.run import Run, epoch_batches

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
    assert each_time.frozen_cache.describe() == "computed each time: freeze.cache=off"
    said = once.frozen_cache.describe()
    assert said is not None
    return said


def kind(name: str, *frozen: str) -> tuple[str, ...]:
    return (
        "model=mlp", "model._target_=cached_models.model", f"+model.kind={name}",
        "trust=[cached_models]", "freeze=by_name", f"freeze.names=[{','.join(frozen)}]",
        "epochs=3", "optimizer.momentum=0.9",
    )  # fmt: skip


# Models that can be cut


def test_a_vgg_is_split_after_its_frozen_blocks(built: Build) -> None:
    said = alike(built, "freeze=first_layers", "freeze.count=2", "model.dropout=0.5", "epochs=3")
    # 2 x 9 x 256 and 2 x 2 x 9 x 256 of them, next to 2 x 4 x 9 x 64 + 4 x 4 x 9 x 64 + 4 x 3
    share = 100 * 13824 / (13824 + 4608 + 9216 + 12)
    # after the pooling 2 channels of 8 x 8 floats
    assert said == (
        f"computed once up to batchnorm1_2 ({share:.1f} % of the multiply-adds), 512 B a sample"
    )


def test_a_resnet_is_split_inside_a_block(built: Build) -> None:
    names = "[convolution,batchnorm,stage1_1.convolution1,stage1_1.batchnorm1]"
    said = alike(built, "model=resnet", "model.widths=[8,4]", "freeze=by_name", "epochs=3",
                 f"freeze.names={names}")  # fmt: skip
    # the shortcut and what goes on, 8 channels of 16 x 16 floats each
    assert said.startswith("computed once up to stage1_1.batchnorm1 (")
    assert said.endswith(", 16.0 KiB a sample")


@pytest.mark.integration
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
def test_any_kind_of_model_gives_bit_identical_results(
    built: Build, name: str, frozen: list[str], last: str
) -> None:
    said = alike(built, *kind(name, *frozen))
    assert re.match(rf"computed once up to {re.escape(last)} \(", said)


@pytest.mark.parametrize(
    "trick", ["average=ema", "average=swa average.start=0.5", "precision=bf16", "clip=norm"]
)
def test_other_tricks_give_bit_identical_results_with_the_cache(built: Build, trick: str) -> None:
    """Also with dropout and a BatchNorm layer that learns behind the cut."""
    said = alike(built, "freeze=first_layers", "freeze.count=2", "model.dropout=0.5", "epochs=3",
                 "model.widths=[4,4]", *trick.split())  # fmt: skip
    assert said.startswith("computed once up to batchnorm1_2 (")


def test_the_split_moves_as_layers_are_unfrozen(built: Build) -> None:
    stages = (
        "[{epoch: 2, names: ['*2_2*']}, {epoch: 4, names: ['*2_1*']}, {epoch: 6, names: ['*1_*']}]"
    )
    said = alike(built, "freeze=gradual", f"freeze.stages={stages}", "epochs=8", "average=ema")
    first, second, third = said.split("; ")
    assert first.startswith("computed once up to batchnorm2_2 (")
    assert second.startswith("from epoch 3 on computed once up to batchnorm2_1 (")
    assert third.startswith("from epoch 5 on computed once up to batchnorm1_2 (")


def test_a_stage_of_one_epoch_is_not_cached(built: Build) -> None:
    stages = "[{epoch: 1, names: ['*2_*']}, {epoch: 3, names: ['*1_*']}]"
    said = alike(built, "freeze=gradual", f"freeze.stages={stages}", "epochs=4")
    assert said.startswith("computed each time: it would be used in one epoch only; from epoch 2 ")
    assert "from epoch 2 on computed once up to batchnorm1_2 (" in said


def test_frozen_cache_covers_evaluation_but_not_augmented_inputs(built: Build) -> None:
    said = alike(built, "freeze=first_layers", "freeze.count=2", "augment=flip_crop", "epochs=3")
    assert said.startswith("computed each time: augment=flip_crop changes the inputs; in evaluation"
                           " computed once up to batchnorm1_2 (")  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("train", "too little to save before batchnorm1_1.running_mean, which moves"),
        ("affine_only", "too little to save before batchnorm1_1.weight, which is trained"),
    ],
)
def test_a_frozen_batchnorm_that_learns_is_in_the_tail(
    built: Build, policy: str, reason: str
) -> None:
    said = alike(built, "freeze=first_layers", "freeze.count=2", f"freeze.batchnorm={policy}")
    assert said == f"computed each time: {reason}"


@st.composite
def drawn(draw: st.DrawFn) -> tuple[str, ...]:
    """A chain of layers with shortcuts, the first ones and some more frozen; a ragged last batch,
    of one sample at times."""
    layers = draw(st.lists(st.sampled_from(sorted(cached_models.LAYERS)), min_size=2, max_size=6))
    skips = [draw(st.booleans()) for _ in layers]
    leading = draw(st.integers(1, len(layers)))
    frozen = [i for i in range(len(layers)) if i < leading or draw(st.booleans())]
    names = [f"'layers.{index}'" for index in frozen if layers[index] != "dropout"]
    assume(names)
    return (
        *kind("drawn", *names), f"+model.layers=[{','.join(layers)}]",
        f"+model.skips={skips}".replace(" ", ""), "epochs=2",
        f"data.n_train={draw(st.sampled_from([16, 17, 19, 24]))}",
    )  # fmt: skip


@pytest.mark.integration
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(drawn())
def test_any_model_with_any_frozen_layers_gives_bit_identical_results(
    built: Build, overrides: tuple[str, ...]
) -> None:
    alike(built, *overrides)


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
def test_a_model_that_cannot_be_split_is_computed_each_time_with_the_reason(
    built: Build, name: str, frozen: list[str], reason: str
) -> None:
    # channels last, flattening is a copy, which a change in place doesn't reach
    said = alike(built, *kind(name, *frozen), "channels_last=false")
    assert said.startswith(f"computed each time: {reason}")


# What goes on around it


def test_hooks_are_called_in_every_pass(built: Build) -> None:
    """On a layer within what is frozen, which is then behind the cut, and on the head."""
    seen: list[list[str]] = []
    for cache in ("auto", "off"):
        run = built(*kind("plain", "first", "second"), f"freeze.cache={cache}")
        calls: list[str] = []
        for name in ("second", "head"):
            layer = run.model.get_submodule(name)
            layer.register_forward_hook(lambda *_, name=name, calls=calls: calls.append(name))
        for epoch, point in enumerate(p for p in train(run) if p.is_epoch_end):
            assert point.epoch == epoch + 1
            if epoch:  # in the first one the way was tried out
                seen.append(calls.copy())
            calls.clear()
    # in each of two epochs, 3 batches of training and 3 of evaluation
    assert seen == [["second", "head"] * 6] * 4


def failing(built: Build, cache: str, *overrides: str, part: str) -> str:
    """How a run ends of which a sample isn't finite."""
    run = built("freeze=first_layers", "freeze.count=2", f"freeze.cache={cache}", *overrides)
    split = getattr(run.data, part)
    assert isinstance(split, InMemory)
    split.inputs[7, 0, 3, 3] = torch.nan
    with pytest.raises(NonFiniteError) as caught:
        followed(run)
    assert run.frozen_cache.describe() is not None
    return str(caught.value)


@pytest.mark.parametrize("part", ["train", "val"])
def test_what_is_not_finite_is_reported_with_batch_and_samples(built: Build, part: str) -> None:
    told = failing(built, "auto", part=part)
    assert told == failing(built, "off", part=part)
    assert "the inputs themselves are not finite, in 1 of " in told
    assert f"({'training' if part == 'train' else 'validation'} sample 7)" in told


def test_a_layer_that_overflows_in_the_tail_is_named(built: Build) -> None:
    messages = []
    for cache in ("auto", "off"):
        run = built("freeze=first_layers", "freeze.count=2", f"freeze.cache={cache}", "epochs=3")
        points = train(run)
        next(points)
        run.model.get_submodule("classifier").weight.data.fill_(3e38)  # type: ignore[operator]
        with pytest.raises(NonFiniteError) as caught:
            list(points)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "first in the output of classifier (Linear)" in messages[0]


def test_frozen_cache_does_not_change_skipped_batches(built: Build) -> None:
    def skipping(cache: str) -> Points:
        run = built("freeze=first_layers", "freeze.count=2", f"freeze.cache={cache}",
                    "on_nonfinite=skip", "epochs=3")  # fmt: skip
        assert isinstance(run.data.train, InMemory)
        run.data.train.inputs[7, 0, 3, 3] = torch.nan
        points = followed(run)
        assert run.nonfinite_guard.skipped_batches == 3
        return points

    assert str(skipping("auto")) == str(skipping("off"))  # a NaN is not equal to itself


def test_splitting_and_caching_have_no_side_effects(built: Build) -> None:
    run = built("freeze=first_layers", "freeze.count=2", "model.dropout=0.5", "epochs=3")
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    modes = [module.training for module in run.model.modules()]
    drawn = rng.snapshot_rng()
    assert str(run.frozen_cache.describe_plan(run)).startswith("computed once up to batchnorm1_2")
    feed = run.frozen_cache.training_inputs(run, 0, epoch_batches(run, 0))
    assert feed.model is not run.model
    run.frozen_cache.evaluation_inputs(run, 0)
    assert rng.snapshot_rng() == drawn
    assert [module.training for module in run.model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    assert all(parameter.grad is None for parameter in run.model.parameters())


@pytest.mark.parametrize("at", [4, 5])
def test_a_run_stopped_within_an_epoch_resumes_to_the_same_end(tmp_path: Path, at: int) -> None:
    frozen = (*QUIET, "freeze=first_layers", "freeze.count=2")
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    project(whole)
    assert commands.run(whole, *frozen, "freeze.cache=off").status == 0
    stopped(halves, *frozen, at=at)
    done = commands.run(halves, "resume", commands.run_dirs(halves)[0].name, "trust=[parts]")
    assert done.status == 0, done.err
    assert "computed once up to batchnorm1_2" in " ".join(done.out.split())
    alike_recorded(finished(halves), finished(whole))


def test_plan_and_record_describe_the_cache(tmp_path: Path) -> None:
    frozen = (*commands.QUICK, "tracking=none", "freeze=first_layers", "freeze.count=2")
    said = "computed once up to batchnorm1_2 ("
    shown = commands.run(tmp_path, "plan", *frozen)
    assert f"Frozen: {said}" in " ".join(shown.out.split())
    assert not (tmp_path / "outputs").exists()
    done = commands.run(tmp_path, *frozen)
    assert done.status == 0, done.err
    (run,) = commands.run_dirs(tmp_path)
    assert f"Frozen: {said}" in " ".join((run / "plan.txt").read_text().split())
    tags = {k: v for e in commands.read_lines(run / "events.jsonl") if e["kind"] == "tags"
            for k, v in e.items()}  # fmt: skip
    assert said in tags["mlflow.note.content"]
