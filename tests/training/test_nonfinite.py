"""NaN and infinity: told with the step, the samples and the layer; left out without a trace."""

from __future__ import annotations

import copy
import functools
import math
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from nonfinite_model import SEED, chosen, marked, skipping
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from recipe.components.data import InMemory
from recipe.nn import rng
from recipe.training.loop import MetricsEvent, train
from recipe.training.nonfinite import NonFiniteError
from recipe.training.run import Run
from recipe.training.step_components import StepComponent

Build = Callable[..., Run]


def by_hand(sample: int, epoch: int, seed: int = SEED) -> tuple[int, list[int]]:
    """The batch of an epoch (both from 1) in which a sample of 20 is, 8 at a time."""
    order = torch.randperm(20, generator=rng.make_generator(seed, "order", epoch - 1)).split(8)
    (found,) = [
        (number, indices.tolist()) for number, indices in enumerate(order, 1) if sample in indices
    ]
    return found


def weights(model: nn.Module, *, buffers: bool = True) -> dict[str, Tensor]:
    named = model.state_dict() if buffers else dict(model.named_parameters())
    return {name: tensor.detach().clone() for name, tensor in named.items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def stopped(run: Run) -> tuple[dict[str, Any], str, list[MetricsEvent]]:
    """The facts and the message of a run that stops, and its Points up to then; its weights are
    those after the last step that was good."""
    points: list[MetricsEvent] = []
    good = weights(run.model, buffers=False)
    with pytest.raises(NonFiniteError) as caught:
        for point in train(run):
            points.append(point)
            good = weights(run.model, buffers=False)
    assert_same(good, weights(run.model, buffers=False))
    assert "\n" not in str(caught.value)
    return caught.value.to_dict(), str(caught.value), points


# Where it began


@pytest.mark.parametrize("kind", ["nan", "inf", "-inf"])
def test_nonfinite_layer_is_named_with_step_batch_and_sample(built: Build, kind: str) -> None:
    run = marked(built(*chosen(kind)), 13)
    batch, samples = by_hand(13, 1)
    facts, message, points = stopped(run)
    assert (facts["step"], facts["epoch"], facts["batch"]) == (batch, 1, batch)
    assert (facts["samples"], facts["not_finite"]) == (samples, [13])
    assert (facts["layer"], facts["part"]) == ("gate", "training")
    # some of the features are 0, and 0 * inf is NaN
    assert message.startswith(f"step {batch} (epoch 1, batch {batch}): the loss is nan; first in ")
    assert f"first in the output of gate (Gate): nan, in 1 of {len(samples)} samples" in message
    assert "(training sample 13); lower the learning rate or clip the gradients; on_non" in message
    assert [point.step for point in points] == list(range(1, batch))


def test_steps_are_counted_across_epochs_and_batches_within_one(built: Build) -> None:
    run = built(*chosen())
    points = []
    with pytest.raises(NonFiniteError) as caught:
        for point in train(run):
            points.append(point)
            if point.is_epoch_end:
                marked(run, 2, 3)
    (first, samples), (second, others) = by_hand(2, 2), by_hand(3, 2)
    batch, samples = min((first, samples), (second, others))
    facts = caught.value.to_dict()
    assert (facts["step"], facts["epoch"], facts["batch"]) == (3 + batch, 2, batch)
    assert facts["samples"] == samples
    assert facts["not_finite"] == [sample for sample in samples if sample in (2, 3)]


def test_a_gradient_that_becomes_nan_is_located_between_two_layers(built: Build) -> None:
    run = marked(built(*chosen("root")), 13)
    facts, message, _ = stopped(run)
    assert facts["what"] == "the norm of the gradients is nan"
    where = "between the output of gate (Gate) and that of relu (ReLU)"
    assert f"first in the gradient, {where}, in 1 of " in message
    assert (facts["layer"], facts["not_finite"]) == ("gate", [13])


class Root(nn.Module):
    """At 0 its gradient is infinite."""

    def forward(self, inputs: Tensor) -> Tensor:
        return (0 * inputs).sqrt()


def test_of_nested_layers_the_innermost_is_named(built: Build) -> None:
    run = built("model=mlp", "model.hidden=[4]")
    run.model.add_module("relu1", nn.Sequential(nn.Sequential(Root())))
    facts, message, _ = stopped(run)
    assert facts["layer"] == "relu1.0.0"
    where = "between the output of relu1.0.0 (Root) and that of linear1 (Linear)"
    assert f"{where}, in all 8 " in message


def test_a_loss_that_is_nan_itself_is_distinguished_from_the_model(built: Build) -> None:
    run = built(f"seed={SEED}")
    plain, calls = run.loss, iter(range(100))
    run.loss = StepComponent(
        lambda output, target: plain(output, target) * (math.nan if next(calls) else 1)
    )
    facts, message, _ = stopped(run)
    assert (facts["step"], facts["what"], facts["layer"]) == (2, "the loss is nan", None)
    assert "every output of the model is finite, so it is the loss itself (the batch is" in message
    assert "; check the loss, and its inputs; on_nonfinite=skip leaves" in message


def test_a_finite_loss_with_a_gradient_that_is_not_is_distinguished_from_the_model(
    built: Build,
) -> None:
    run = built()
    plain = run.loss
    run.loss = StepComponent(
        lambda output, target: plain(output, target) + (0 * output[0, 0]).sqrt()
    )
    facts, _, _ = stopped(run)
    assert facts["what"] == "the norm of the gradients is nan"
    assert facts["where"] == "the loss is finite, but not its gradient at the model's output"
    assert (facts["step"], facts["layer"]) == (1, None)
    assert facts["not_finite"] == facts["samples"][:1]


def test_gradients_whose_norm_overflows_are_reported_with_the_largest(built: Build) -> None:
    run = built()
    plain = run.loss
    # its gradients are about 1e24, and the square of that is beyond float32
    run.loss = StepComponent(lambda output, target: 1e25 * plain(output, target))
    facts, _, _ = stopped(run)
    assert facts["what"] == "the norm of the gradients is inf"
    assert facts["where"].startswith(
        "every gradient is finite, but too large for their norm; the largest is that of classifier."
    )


class Own(nn.Module):
    """What goes back through it is finite, but not the gradient of its own parameter."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Tensor) -> Any:
        return self.layer(inputs) + self.scale.square().sqrt()


@pytest.mark.parametrize("order", [("early", "late"), ("late", "early")])
def test_the_parameter_nearest_to_the_loss_is_named_in_any_order_of_registration(
    built: Build, order: tuple[str, str]
) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = {"early": nn.Linear(256, 4), "late": nn.Linear(4, 3)}
            for name in order:
                self.add_module(name, Own(layers[name]))

        def forward(self, images: Tensor) -> Any:
            return self.get_submodule("late")(self.get_submodule("early")(images.flatten(1)))

    run = built()
    run.model = Both()
    run.optimizer = torch.optim.SGD([{"params": list(run.model.parameters()), "name": "all"}], lr=1)
    facts, _, _ = stopped(run)
    assert facts["layer"] == "late"
    assert facts["where"].startswith("first in the gradient of late.scale (2 of 6 parameters have ")


def test_diverging_learning_rate_stops_before_nan_step(built: Build) -> None:
    run = built("optimizer.lr=1e30", f"seed={SEED}", "model=mlp", "model.hidden=[4,4]")
    # weights about 1e28 then: the first layer's output is finite, that times the next's isn't
    second = [name for name, layer in run.model.named_modules() if isinstance(layer, nn.Linear)][1]
    facts, message, points = stopped(run)
    assert (facts["step"], facts["layer"]) == (2, second)
    assert facts["samples"] == by_hand(facts["samples"][0], 1)[1]
    assert f"first in the output of {second} (Linear): " in message
    assert [point.step for point in points] == [1]


def test_nan_parameter_is_named(built: Build) -> None:
    run = built()
    name = "convolution2_1.bias"
    run.model.get_parameter(name).data[1] = math.nan
    with pytest.raises(NonFiniteError) as caught:
        list(train(run))
    facts = caught.value.to_dict()
    assert (facts["where"], facts["layer"]) == (f"{name} itself holds nan", "convolution2_1")


def test_inputs_that_are_not_finite_are_reported_with_their_samples(built: Build) -> None:
    run = built(f"seed={SEED}")
    assert isinstance(run.data.train, InMemory)
    run.data.train.inputs[[4, 13], 0, 3, 3] = math.inf
    facts, message, _ = stopped(run)
    (batch, samples) = min(by_hand(4, 1), by_hand(13, 1))
    assert (facts["batch"], facts["samples"]) == (batch, samples)
    assert facts["not_finite"] == [sample for sample in samples if sample in (4, 13)]
    assert "; the inputs themselves are not finite, in " in message
    assert "; mend or remove them; on_nonfinite=skip" in message


def test_augmented_inputs_are_distinguished_from_those_of_the_data(built: Build) -> None:
    for wrong, told in ((0, "inputs"), (1, "targets")):
        run = built(f"seed={SEED}")

        def broken(inputs: Tensor, targets: Tensor, _: Any, at: int = wrong) -> Any:
            made = [inputs.clone(), functional.one_hot(targets, 3).float()]
            made[at][1] = math.nan
            return made

        run.augment = StepComponent(broken)
        facts, _, _ = stopped(run)
        assert facts["where"] == f"augmentation returned {told} that are not finite"
        assert facts["not_finite"] == ([facts["samples"][1]] if told == "inputs" else [])


def test_nonfinite_model_without_layers_is_named_by_type(built: Build) -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 256))

        def forward(self, images: Tensor) -> Tensor:
            return functional.linear(images.flatten(1), self.weight).log()  # NaN below 0

    run = built()
    run.model = Alone()
    run.optimizer = torch.optim.SGD([{"params": list(run.model.parameters()), "name": "all"}], lr=1)
    facts, _, _ = stopped(run)
    assert facts["where"] == "first in the output of the model (Alone): nan"
    assert facts["layer"] == ""


class Chance(nn.Module):
    """Fails on one draw in five."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * math.nan if self.training and torch.rand(()) < 0.2 else inputs


@pytest.mark.parametrize("seed", range(6))
def test_tracing_repeats_the_step_with_its_original_random_numbers(built: Build, seed: int) -> None:
    run = built("model=mlp", "model.hidden=[4]", "model.dropout=0.5", "epochs=40", f"seed={seed}")
    run.model.add_module("chance", Chance())
    facts, _, _ = stopped(run)
    assert facts["layer"] == "chance"


def gradient(p: nn.Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad.clone()


def test_tracing_changes_no_weights_buffers_modes_gradients_or_streams(built: Build) -> None:
    run = marked(built(*chosen()), *range(20))
    run.model.get_submodule("head").eval()
    before: list[list[Any]] = []
    clip = run.clip

    def state() -> list[Any]:
        return [
            weights(run.model), [gradient(p) for p in run.model.parameters()],
            torch.get_rng_state(), random.getstate(), list(np.random.get_state()),
            [module.training for module in run.model.modules()],
            [len(module._forward_hooks) for module in run.model.modules()],
        ]  # fmt: skip

    def looks(params: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
        clipped = clip(params)
        before.append(state())
        return clipped

    run.clip = StepComponent(looks)
    with pytest.raises(NonFiniteError):
        list(train(run))
    assert repr(state()) == repr(before[-1])


def test_if_tracing_fails_the_rest_is_still_reported(built: Build) -> None:
    run = marked(built(*chosen()), *range(20))
    plain: Any = run.model.forward
    calls = iter(range(9))

    def forward(images: Tensor) -> Tensor:
        if next(calls):
            raise RuntimeError("out of memory\nand more")
        output: Tensor = plain(images)
        return output

    run.model.forward = forward
    facts, _, _ = stopped(run)
    assert (facts["step"], facts["what"]) == (1, "the loss is nan")
    assert facts["where"] == (
        "it is not located, as the repetition raised RuntimeError: out of memory"
    )


# In an evaluation


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_nonfinite_evaluation_stops_run_immediately(built: Build, policy: str) -> None:
    run = marked(
        built(*chosen("inf"), "scheduler=plateau", f"on_nonfinite={policy}"), 6, part="val"
    )
    facts, message, points = stopped(run)
    assert (facts["step"], facts["epoch"], facts["batch"]) == (3, 1, 2)  # of 4, 4 and 2 samples
    assert (facts["samples"], facts["not_finite"]) == ([4, 5, 6, 7], [6])
    assert (facts["part"], facts["layer"]) == ("validation", "gate")
    assert message.startswith("evaluation after epoch 1 (step 3, batch 2): val/loss is ")
    assert ", in 1 of 4 samples (validation sample 6); " in message
    assert "on_nonfinite" not in message  # an evaluation can't be left out
    assert run.best.epoch == 0 and run.lr_schedule.scheduler.last_epoch == 0
    assert [point.step for point in points] == [1, 2, 3]


def test_nonfinite_weights_are_never_saved_even_if_the_loss_is_finite(built: Build) -> None:
    run = built(*chosen())
    run.model.get_buffer("norm.running_var")[0] = math.inf  # its output is its bias then
    facts, message, points = stopped(run)
    assert message.startswith("evaluation after epoch 1 (step 3): val/loss is ")
    assert ", but the weights are not finite; norm.running_var itself holds inf; " in message
    assert facts["where"] == "norm.running_var itself holds inf"
    assert (facts["step"], facts["batch"], facts["samples"], run.best.epoch) == (3, 0, [], 0)
    assert len(points) == 3


# Left out


CLIPS = {
    "none": ("clip=none",),
    "norm": ("clip=norm", "clip.max_norm=1"),
    "value": ("clip=value", "clip.max_value=0.05"),
    "agc": ("clip=agc",),
}


def written_out(built: Build, bad: int, *overrides: str) -> Iterator[tuple[Run, bool]]:
    """The loop by hand: a batch that holds the sample `bad` only draws its random numbers. Gives
    the run after each batch, and whether it was trained on."""
    run = built(*overrides)
    model, data = run.model, run.data.train
    assert isinstance(data, InMemory)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    for epoch in range(3):
        model.train()
        torch.manual_seed(rng.derive_seed(SEED, "dropout", epoch))
        for indices in torch.randperm(20, generator=rng.make_generator(SEED, "order", epoch)).split(
            8
        ):
            if bad in indices:
                copy.deepcopy(model)(data.inputs[indices])
                yield run, False
                continue
            optimizer.zero_grad()
            functional.cross_entropy(model(data.inputs[indices]), data.targets[indices]).backward()
            run.clip(list(model.parameters()))
            optimizer.step()
            scheduler.step()
            yield run, True
    run.optimizer = optimizer


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("gate", ["nan", "inf", "root"])
def test_a_skipped_batch_has_no_effect(built: Build, gate: str, clip: str) -> None:
    overrides = skipping(gate, *CLIPS[clip])
    run = marked(built(*overrides), 13)
    points = list(train(run))
    *_, (reference, _) = written_out(built, 13, *overrides)
    assert_same(weights(run.model), weights(reference.model))
    ours, theirs = run.optimizer.state_dict(), reference.optimizer.state_dict()
    for key, state in theirs["state"].items():
        assert torch.equal(ours["state"][key]["momentum_buffer"], state["momentum_buffer"])
    assert ours["param_groups"][0]["lr"] == theirs["param_groups"][0]["lr"]
    skipped = [p.metrics["nonfinite/skipped"] for p in points if p.is_epoch_end]
    assert skipped == [1, 2, 3] and run.nonfinite_guard.skipped_batches == 3
    for epoch in (1, 2, 3):
        batch, _ = by_hand(13, epoch)
        metrics = points[4 * (epoch - 1) + batch - 1].metrics
        assert math.isfinite(metrics["train/loss"]) == (gate == "root")
        assert not math.isfinite(metrics["clip/grad_norm"])


def test_nonfinite_policies_match_without_nonfinite_batches(built: Build) -> None:
    first, second = (built(*chosen(), f"on_nonfinite={policy}") for policy in ("stop", "skip"))
    metrics = [
        [
            {k: v for k, v in p.metrics.items() if k.split("/")[0] in ("train", "val")}
            for p in points
        ]
        for points in map(train, (first, second))
    ]
    assert metrics[0] == metrics[1]
    assert_same(weights(first.model), weights(second.model))


def test_a_buffer_that_the_model_replaces_is_restored(built: Build) -> None:
    run = marked(built(*skipping()), 13)
    run.model.register_buffer("mean", torch.zeros(()))

    def replace(model: Any, inputs: Any, output: Any) -> None:
        if model.training:
            model.mean = 0.5 * model.mean + inputs[0].mean()

    run.model.register_forward_hook(replace)
    before, seen = run.model.get_buffer("mean"), []
    for point in train(run):
        if not point.is_epoch_end:
            seen.append(torch.equal(run.model.get_buffer("mean"), before))
            before = run.model.get_buffer("mean")
    expected = [by_hand(13, epoch)[0] == batch for epoch in (1, 2, 3) for batch in (1, 2, 3)]
    assert seen == expected


def test_ema_does_not_count_skipped_batches(built: Build) -> None:
    overrides = skipping("nan", "average=ema", "average.decay=0.9", "average.warmup=false")
    run = marked(built(*overrides), 13)
    list(train(run))
    average: dict[str, Tensor] = {}
    for reference, trained in written_out(built, 13, *overrides):
        if trained:
            now = weights(reference.model, buffers=False)
            average = average or now
            average = {name: 0.9 * average[name] + 0.1 * now[name] for name in now}
    for name, value in run.average.model.named_parameters():
        torch.testing.assert_close(value.detach(), average[name])
    assert all(value.isfinite().all() for value in run.average.model.parameters())


def test_swa_recomputes_batchnorm_without_skipped_batches(built: Build) -> None:
    run = built(*skipping("nan", "average=swa", "average.start=0.9"))
    assert isinstance(run.data.train, InMemory)
    run.data.train.inputs[13] = math.nan
    list(train(run))
    order = torch.randperm(20, generator=rng.make_generator(SEED, "order", 2)).split(8)
    kept = [run.data.train.inputs[indices] for indices in order if 13 not in indices]
    model: Any = run.average.model
    means = [model.convolution(inputs).mean((0, 2, 3)).detach() for inputs in kept]
    assert len(means) == 2
    torch.testing.assert_close(model.norm.running_mean, torch.stack(means).mean(0))


@pytest.mark.parametrize("limit", [1, 2])
def test_the_limit_is_the_number_of_batches_that_may_be_skipped(built: Build, limit: int) -> None:
    run = marked(built(*skipping("nan", f"nonfinite_limit={limit}")), 13)
    before = weights(run.model)
    with pytest.raises(NonFiniteError) as caught:
        for point in train(run):
            if not point.is_epoch_end:
                before = weights(run.model)
    batch, samples = by_hand(13, limit + 1)
    facts = caught.value.to_dict()
    assert (facts["epoch"], facts["batch"]) == (limit + 1, batch)
    assert (facts["layer"], facts["not_finite"], facts["samples"]) == ("gate", [13], samples)
    told = f"the loss is nan, and as many batches as nonfinite_limit={limit} allows are left out; "
    assert told in str(caught.value) and "on_nonfinite=skip" not in str(caught.value)
    assert_same(weights(run.model), before)  # the buffers, too
    assert run.nonfinite_guard.skipped_batches == limit
    assert list(train(marked(built(*skipping("nan", "nonfinite_limit=3")), 13)))


# With a scaler


def scaled(run: Run, scale: float) -> Run:
    run.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
    return run


def enlarged(loss: Any, output: Tensor, target: Tensor) -> Tensor:
    value: Tensor = 1e35 * loss(output, target)
    return value


def test_a_gradient_that_overflows_by_its_scale_is_left_to_the_scaler(built: Build) -> None:
    for policy in ("stop", "skip"):
        run = scaled(built(f"on_nonfinite={policy}", "average=ema"), 2.0**16)
        plain = run.loss
        # 1e35 * 2^16 and 1e35 * 2^15 are beyond float32
        run.loss = StepComponent(functools.partial(enlarged, plain))
        at_rest = weights(run.model)
        list(zip(range(2), train(run), strict=False))
        assert run.scaler.get_scale() == 2.0**14 and run.nonfinite_guard.skipped_batches == 0
        assert_same({n: at_rest[n] for n, _ in run.model.named_parameters()},
                    weights(run.model, buffers=False))  # fmt: skip


def test_nan_loss_stops_run_with_scaler(built: Build) -> None:
    facts, message, _ = stopped(marked(scaled(built(*chosen()), 2.0**8), 13))
    assert facts["layer"] == "gate" and "the loss is nan" in message


def test_a_skipped_batch_keeps_the_scale(built: Build) -> None:
    run = marked(scaled(built(*skipping()), 2.0**8), 13)
    list(train(run))
    assert run.scaler.get_scale() == 2.0**8 and run.nonfinite_guard.skipped_batches == 3
    assert run.scaler.state_dict()["_growth_tracker"] == 6  # of nine steps


def test_an_infinite_gradient_at_scale_one_stops_the_run(built: Build) -> None:
    facts, _, _ = stopped(marked(scaled(built(*chosen("root")), 1.0), 13))
    assert facts["what"] == "the norm of the gradients is nan"


# On the command line

PARTS = """
import torch

calls = {}

def mark(inputs, targets, generator, *, call: int):
    "Marks the sixth sample of one step, as each has another state of the generator."
    drawn = torch.rand((), generator=generator).item()
    if calls.setdefault(drawn, len(calls) + 1) == call:
        inputs = inputs.clone()
        inputs[5, 0, 0, 0] = 1000.0
    return inputs, targets

class Exponential(torch.nn.Module):
    def forward(self, images):
        return images.exp()  # overflows above 88

def model(*, classes: int, size: int, channels: int):
    layers = torch.nn
    return layers.Sequential(
        Exponential(), layers.BatchNorm2d(channels), layers.Flatten(),
        layers.Linear(channels * size**2, classes),
    )
"""

GROUP = "classes: ${data.classes}\nsize: auto\nchannels: auto\nweights: null\n"

MINE = (
    *commands.CPU, "data.train_size=100", "epochs=2", "trust=[mine]", "model=mine",
    "augment=mark",
)  # fmt: skip
"""100 digits in batches of 64 and 36: the fourth step is the second of epoch 2."""


def project(folder: Path) -> Path:
    return commands.project(folder, {
        "mine.py": PARTS,
        "conf/augment/mark.yaml": "# Marks.\n_target_: mine.mark\ncall: 4  # when\n",
        "conf/model/mine.yaml": f"# Overflows.\n_target_: mine.model\n{GROUP}",
    })  # fmt: skip


def mlflow(folder: Path, run: Path) -> tuple[MlflowClient, Any]:
    client = MlflowClient(f"sqlite:///{folder}/outputs/mlflow.db")
    return client, client.get_run(commands.read_json(run / "sent.json")["mlflow_run_id"])


@pytest.mark.integration
def test_a_run_that_stops_is_failed_and_can_be_resumed(tmp_path: Path) -> None:
    done = commands.spawn(project(tmp_path), *MINE)
    (run,) = commands.run_dirs(tmp_path)
    (problem,) = done.problems
    order = torch.randperm(100, generator=rng.make_generator(0, "order", 1)).split(64)[1].tolist()
    kept = f"outputs/runs/{run.name}/model.safetensors"
    assert done.status == 1
    assert problem.startswith(
        "recipe: step 4 (epoch 2, batch 2): the loss is nan; first in the output of 0 "
        f"(Exponential): inf, in 1 of 36 samples (training sample {order[5]}); the last good "
        f"checkpoint is outputs/runs/{run.name}/checkpoints/step-000000002.ckpt (python -m recipe "
        f"resume {run.name} key=value), the best weights are {kept} (epoch 1); lower the learning "
        "rate or clip the gradients; on_nonfinite"
    )
    facts = commands.read_json(run / "nonfinite.json")
    assert (facts["step"], facts["epoch"], facts["batch"], facts["layer"]) == (4, 2, 2, "0")
    assert (facts["samples"], facts["not_finite"]) == (order, [order[5]])
    weights = load_file(tmp_path / kept)
    assert weights and all(value.isfinite().all() for value in weights.values())
    client, found = mlflow(tmp_path, run)
    assert commands.read_json(run / "run.json")["status"] == found.info.status == "FAILED"
    artifacts = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert {"nonfinite.json", "model.safetensors", "error.txt"} <= artifacts
    assert found.data.metrics["train/loss"] == found.data.metrics["train/loss"]  # no NaN
    again = (*MINE, "augment=none", f"model.weights={kept}", "optimizer.lr=0.001")
    assert commands.run(tmp_path, *again).status == 0


def test_it_resumes_with_changes_from_the_last_good_checkpoint(tmp_path: Path) -> None:
    """Which is not that of the best weights: with steps so small no later epoch is better."""
    arguments = (*MINE, "tracking=none", "epochs=4", "augment.call=7", "optimizer.lr=1e-9")
    done = commands.run(project(tmp_path), *arguments)
    (run,), (problem,) = commands.run_dirs(tmp_path), done.problems
    kept = f"outputs/runs/{run.name}"
    assert done.status == 1
    assert f"the last good checkpoint is {kept}/checkpoints/step-000000006.ckpt (" in problem
    assert re.search(rf"the best weights are {kept}/model.safetensors \(epoch [12]\)", problem)
    on = commands.run(tmp_path, "resume", run.name, "augment=none", "trust=[mine]")
    assert (on.status, on.err) == (0, "")
    assert f"Starts from {run.name} after step 6" in on.out


def test_no_checkpoint_is_written_of_weights_that_overflowed(tmp_path: Path) -> None:
    """The first step's loss and gradient are finite, and 3e38 * 1000 times a weight isn't."""
    done = commands.run(
        tmp_path, *commands.QUICK, "tracking=none", "optimizer.lr=3e38",
        "optimizer.weight_decay=1000", "checkpoint.per=step",
    )  # fmt: skip
    (run,) = commands.run_dirs(tmp_path)
    (problem,) = done.problems
    assert problem.startswith("recipe: step 2 (epoch 1, batch 2): the loss is nan;"), problem
    assert "; no weights are kept yet, as no epoch had been evaluated; lower " in problem
    assert not list(run.glob("checkpoints/*"))


def test_nonfinite_error_before_first_evaluation_names_no_weights(tmp_path: Path) -> None:
    done = commands.run(project(tmp_path), *MINE, "augment.call=2", "tracking=none")
    (run,) = commands.run_dirs(tmp_path)
    assert "; no weights are kept yet, as no epoch had been evaluated; lower " in done.problems[0]
    assert not (run / "model.safetensors").exists()
    assert commands.read_json(run / "nonfinite.json")["step"] == 2


@pytest.mark.integration
def test_a_run_that_skips_batches_continues_and_reports_it(tmp_path: Path) -> None:
    # step 4 of 6: the audit looks closely at 1, 2, 3 and 6
    done = commands.spawn(project(tmp_path), *MINE, "epochs=3", "on_nonfinite=skip")
    assert (done.status, done.err) == (0, "")
    said = "Caution 1 of 6 batches were left out, because a loss or gradient was not finite"
    assert said in done.out
    (run,) = commands.run_dirs(tmp_path)
    client, found = mlflow(tmp_path, run)
    history = client.get_metric_history(found.info.run_id, "nonfinite/skipped")
    assert [(point.step, point.value) for point in history] == [(2, 0), (4, 1), (6, 1)]
    assert found.info.status == "FINISHED" and "left out" in found.data.tags["mlflow.note.content"]
    assert not (run / "nonfinite.json").exists()


def test_in_a_sweep_a_run_that_stops_does_not_end_others(tmp_path: Path) -> None:
    learning = "optimizer.lr=1e30,0.01"
    done = commands.sweep(tmp_path, "-m", *commands.QUICK, "tracking=none", learning)
    assert done.status == 1 and "Traceback" not in done.out + done.err
    infos = [commands.read_json(run / "run.json") for run in commands.run_dirs(tmp_path)]
    assert {info["name"]: info["status"] for info in infos} == {
        "optimizer.lr=1e+30": "FAILED", "optimizer.lr=0.01": "FINISHED",
    }  # fmt: skip
    assert "recipe: step 2 (epoch 1, batch 2): the loss is nan; first in" in done.out


def test_samples_from_files_are_reported_with_their_names(tmp_path: Path) -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    for number in range(20):
        file = tmp_path / "pets" / ("cat" if number < 10 else "dog") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise[number]).save(file)
    done = commands.run(
        project(tmp_path), *commands.CPU, "trust=[mine]", "model=mine", "augment=mark",
        "augment.call=3", "tracking=none", "data=image_folder", f"data.path={tmp_path / 'pets'}",
        "data.size=8", "data.val=0.5", "data.batch_size=8",
    )  # fmt: skip
    (run,) = commands.run_dirs(tmp_path)
    facts = commands.read_json(run / "nonfinite.json")
    name = dict(zip(facts["samples"], facts["names"], strict=True))[facts["not_finite"][0]]
    assert (tmp_path / "pets" / name).is_file()
    assert f"(training sample {facts['not_finite'][0]} ({name}))" in done.problems[0]
