"""The loop: plain PyTorch, to the bit; evaluation that only looks; random streams of their own."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from recipe.components.data import Batch, Data, InMemory, Split
from recipe.components.data.dataset import AlwaysReadable
from recipe.components.evaluation.plain import plain
from recipe.components.freeze.by_name import by_name
from recipe.config.spec import RunSpec
from recipe.errors import SpecError
from recipe.nn import rng
from recipe.runner import parameter_table, plan
from recipe.training.collectives import SingleProcess
from recipe.training.evaluation import evaluate
from recipe.training.freezing import FreezeSchedule
from recipe.training.loop import MetricsEvent, train
from recipe.training.run import Run
from recipe.training.step_components import StepComponent

Build = Callable[..., Run]
Compose = Callable[..., RunSpec]
CPU = torch.device("cpu")


def full_precision() -> Any:
    return torch.autocast("cpu", enabled=False)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def steps(points: Iterable[MetricsEvent], key: str) -> list[float]:
    return [point.metrics[key] for point in points if not point.is_epoch_end]


def epochs(points: Iterable[MetricsEvent], key: str) -> list[float]:
    return [point.metrics[key] for point in points if point.is_epoch_end]


def test_the_loop_is_bit_identical_to_one_written_by_hand(built: Build) -> None:
    overrides = (
        "epochs=3", "seed=5", "optimizer.lr=0.1", "optimizer.momentum=0.9",
        "optimizer.weight_decay=0.01", "scheduler=step", "scheduler.step_size=2",
        "scheduler.gamma=0.5", "clip=norm", "clip.max_norm=1",
    )  # fmt: skip
    run, model = built(*overrides), built(*overrides).model
    points = list(train(run))

    data = run.data.train
    assert isinstance(data, InMemory)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    losses, norms = [], []
    for epoch in range(3):
        model.train()
        order = torch.randperm(20, generator=rng.make_generator(5, "order", epoch))
        for indices in order.split(8):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(data.inputs[indices]), data.targets[indices])
            loss.backward()
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
            optimizer.step()
            losses.append(loss.item())
        scheduler.step()

    assert_same(weights(run.model), weights(model))
    assert steps(points, "train/loss") == losses
    assert steps(points, "clip/grad_norm") == norms
    assert steps(points, "lr/all") == [0.1] * 6 + [0.05] * 3
    assert [point.step for point in points] == [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9]
    assert any(norm > 1 for norm in norms)  # the clip did something


def test_every_group_logs_its_learning_rate(built: Build) -> None:
    run = built("param_groups=vgg_conv1", "scheduler=step", "scheduler.step_size=1", "epochs=2")
    points = list(train(run))
    first, rest = (f"lr/{group['name']}" for group in run.optimizer.param_groups)
    assert steps(points, first) == pytest.approx([0.01] * 3 + [0.001] * 3)
    assert steps(points, rest) == pytest.approx([0.001] * 3 + [0.0001] * 3)


def test_scheduler_does_not_advance_when_the_scaler_skips_a_step(built: Build) -> None:
    run = built("scheduler=exponential", "scheduler.gamma=0.5", "scheduler.per=step",
                "optimizer.lr=0.8", "epochs=2")  # fmt: skip
    run.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    calls = iter(range(100))
    plain = run.loss

    def overflows_once(output: Tensor, target: Tensor) -> Tensor:
        """Training's second call gives a loss that is finite, and gradients that aren't."""
        if output.requires_grad and next(calls) == 1:
            return plain(output, target) + (0 * output).sum().sqrt()
        return plain(output, target)

    run.loss = StepComponent(overflows_once)
    seen = [weights(run.model)]
    points = []
    for point in train(run):
        points.append(point)
        if not point.is_epoch_end:
            seen.append(weights(run.model))
    # the rate of step 3 is that of the skipped step 2
    assert steps(points, "lr/all") == pytest.approx([0.8, 0.4, 0.4, 0.2, 0.1, 0.05])
    name = "classifier.weight"
    still = [torch.equal(a[name], b[name]) for a, b in itertools.pairwise(seen)]
    assert still == [False, True, False, False, False, False]


def test_the_hit_rate_is_the_share_of_clipped_steps_so_far(built: Build) -> None:
    # with learning rate 0 every step sees the same weights, so the norms are known beforehand
    at_rest = ("optimizer.lr=0", "model=mlp", "model.hidden=[4]")
    norms = steps(train(built(*at_rest)), "clip/grad_norm")
    limit = sum(sorted(norms)[3:5]) / 2  # 2 of the 6 are above
    for clip in ("clip=norm", f"clip._target_={__name__}.halve_above"):
        setting = f"clip.max_norm={limit!r}" if clip == "clip=norm" else f"+clip.limit={limit!r}"
        points = list(train(built(*at_rest, clip, setting, f"trust=[{__name__}]")))
        assert steps(points, "clip/grad_norm") == norms
        hits = [norm > limit for norm in norms]
        assert epochs(points, "clip/hit_rate") == pytest.approx([sum(hits[:3]) / 3, 2 / 6])


def halve_above(params: list[nn.Parameter], *, limit: float) -> Tensor:
    """A user's clip that tells only the norm; the engine finds out whether it bit."""
    gradients = [p.grad for p in params if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if norm > limit:
        for gradient in gradients:
            gradient.mul_(0.5)
    return norm


def test_best_epoch_is_the_first_among_equals(built: Build) -> None:
    run = built("optimizer.lr=0", "model=mlp", "model.hidden=[4]", "epochs=3")
    points = [point for point in train(run) if point.is_epoch_end]
    accuracies = epochs(points, "val/accuracy")
    assert len(set(accuracies)) == 1  # nothing learns
    assert [point.is_best for point in points] == [True, False, False]
    assert epochs(points, "best/epoch") == [1, 1, 1]
    assert epochs(points, "best/val_accuracy") == accuracies


def test_best_weights_are_copied_at_the_best_epoch(built: Build) -> None:
    run = built("epochs=6", "model=mlp", "model.hidden=[16]", "optimizer.lr=0.3")
    kept: dict[int, dict[str, Tensor]] = {}
    accuracies = []
    for point in train(run):
        if point.is_epoch_end:
            kept[point.epoch] = weights(run.model)
            accuracies.append(point.metrics["val/accuracy"])
    assert run.best.epoch == accuracies.index(max(accuracies)) + 1
    assert_same(run.best.weights, kept[run.best.epoch])


# Evaluation


def test_every_sample_counts_once_for_any_batch_size() -> None:
    # losses ln 2, ln 2 and 100: their mean, not the mean of two batches' means
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [100.0, 0.0]])
    split = InMemory(logits, torch.tensor([0, 1, 1]))
    for size in (1, 2, 3, 64):
        found = evaluate(
            nn.Identity(), split, functional.cross_entropy, forward=plain,
            batch_size=size, device=CPU, autocast=full_precision, collectives=SingleProcess(),
        )  # fmt: skip
        assert found["loss"] == pytest.approx((2 * math.log(2) + 100) / 3)
        assert found["accuracy"] == pytest.approx(1 / 3)  # argmax of equals is the first


class Looks(nn.Module):
    """Draws from every global stream, and sees in which mode and with which gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)
        self.seen: list[tuple[bool, bool]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        torch.rand(5), np.random.rand(5), random.random()
        output: Tensor = self.drop(self.norm(self.layer(inputs)))
        self.seen.append((self.drop.training, output.requires_grad or torch.is_grad_enabled()))
        return output


def test_evaluation_has_no_side_effects() -> None:
    model = Looks()
    by_name(model, names=["norm"])
    FreezeSchedule(model, {}, "eval")
    model.train()
    model.layer.eval()  # a user's own choice
    before = weights(model)
    split = InMemory(torch.randn(5, 2), torch.zeros(5, dtype=torch.int64))
    rng.seed_global_rng(3, "dropout")
    expected = (torch.rand(1).item(), np.random.rand(), random.random())
    rng.seed_global_rng(3, "dropout")
    evaluate(
        model, split, functional.cross_entropy, forward=plain,
        batch_size=2, device=CPU, autocast=full_precision, collectives=SingleProcess(),
    )  # fmt: skip
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected
    assert model.seen == [(False, False)] * 3  # eval mode, no gradients, 5 samples in 3 batches
    modes = {name: module.training for name, module in model.named_modules() if name}
    assert modes == {"layer": False, "norm": False, "drop": True}
    assert model.training
    assert_same(weights(model), before)


MEMORY = """
import contextlib, torch
from torch import nn
from torch.nn import functional
from recipe.components.data import InMemory
from recipe.training.collectives import SingleProcess
from recipe.training.evaluation import evaluate
from recipe.components.evaluation.plain import plain
torch.set_num_threads(1)

class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
    def forward(self, inputs):
        return inputs * self.weight

def deep(depth):
    return nn.Sequential(*(Scale() for _ in range(depth)), nn.Flatten(2), nn.AdaptiveMaxPool1d(1),
                         nn.Flatten())

def peak():
    # of this program alone; ru_maxrss begins at what the process that started it had held
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM:")]
    return int(line.split()[1]) // 1024

split = InMemory(torch.rand(8, 4, 256, 256), torch.zeros(8, dtype=torch.int64))  # 8 MB
def look(model):
    evaluate(model, split, functional.cross_entropy, forward=plain, batch_size=8,
             device=torch.device("cpu"), autocast=contextlib.nullcontext,
             collectives=SingleProcess())

def learn(model):
    functional.cross_entropy(model(split.inputs), split.targets).backward()

for act in (look, learn):
    act(deep(1))
    for depth in (4, 24):
        act(deep(depth))
        print(peak())
"""


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_training_grows_with_depth_and_that_of_evaluation_does_not() -> None:
    # large blocks go back to the system when freed; else glibc keeps some, more or less of them
    returned = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    process = subprocess.run(
        [sys.executable, "-c", MEMORY], env=returned, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    shallow, deep, shallow_training, deep_training = map(int, process.stdout.split())
    activation = 8  # MB
    assert deep - shallow < 2 * activation
    assert deep_training - shallow_training > 15 * activation  # 20 more layers


# Random streams


class Recorded(AlwaysReadable):
    """A split that writes down which samples are asked for."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.targets = split.targets
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        for indices in batches:
            self.asked.append(indices.tolist())
            yield from self.split.batches([indices])


def batches_of(run: Run) -> list[list[int]]:
    recorded = Recorded(run.data.train)
    run.data = dataclasses.replace(run.data, train=recorded)
    list(train(run))
    return recorded.asked


def test_sample_order_depends_only_on_seed_and_epoch(built: Build) -> None:
    expected = [
        indices.tolist()
        for epoch in range(3)
        for indices in torch.randperm(20, generator=rng.make_generator(4, "order", epoch)).split(8)
    ]
    assert batches_of(built("seed=4", "epochs=3", "model.dropout=0.5")) == expected
    assert batches_of(built("seed=4", "epochs=2", "augment=flip_crop")) == expected[:6]
    assert batches_of(built("seed=5", "epochs=3")) != expected
    assert sorted(itertools.chain(*expected[3:6])) == list(range(20))  # each sample once an epoch


RANDOM_EVERYWHERE = ("model.dropout=0.5", "augment=flip_crop", "average=ema", "clip=agc")


def test_a_repeated_run_is_bit_identical(built: Build) -> None:
    runs = [built(*RANDOM_EVERYWHERE) for _ in range(2)]
    points = []
    for run in runs:
        torch.rand(torch.randint(9, ()).item() + 1)  # type: ignore[arg-type]  # whatever came before
        points.append(list(train(run)))
    assert_same(weights(runs[0].model), weights(runs[1].model))
    timed = ("time/", "memory/")
    numbers = [
        [{k: v for k, v in p.metrics.items() if not k.startswith(timed)} for p in run]
        for run in points
    ]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize(
    "trick",
    [
        "clip=norm", "clip=agc", "scheduler=one_cycle", "scheduler=cosine", "average=ema",
        "average=swa", "param_groups=no_decay",
        "param_groups=layer_decay param_groups.lr=1e-30",  # 0 is refused; this moves no float32
        "optimizer=adamw",
        "freeze=vgg_first2", "freeze.batchnorm=train freeze=first_layers",
    ],
)  # fmt: skip
def test_adding_a_trick_keeps_initial_weights_batches_and_dropout(built: Build, trick: str) -> None:
    # with learning rate 0 the training loss depends on nothing but those three
    common = ["optimizer.lr=0", "model.dropout=0.5"]
    plain, other = built(*common), built(*common, *trick.split())
    assert_same(weights(plain.model), weights(other.model))
    recorded = [steps(train(run), "train/loss") for run in (plain, other)]
    assert recorded[0] == recorded[1]


def test_measurements_change_no_results(built: Build, composed: Compose) -> None:
    """Summary, plan, its timing and an evaluation, before and between the steps."""
    undisturbed = built(*RANDOM_EVERYWHERE)
    list(train(undisturbed))

    run = built(*RANDOM_EVERYWHERE)
    spec = composed(*RANDOM_EVERYWHERE)

    def look() -> None:
        plan.estimate_epoch_seconds(run)
        parameter_table.build_rows(run)
        evaluate(run.model, run.data.val, run.loss, forward=plain, batch_size=3, device=CPU,
                 autocast=run.autocast, collectives=run.collectives)  # fmt: skip

    assert "Linear" in str(plan.make_plan(spec, run).model_summary)
    for _ in train(run):
        look()
    assert_same(weights(undisturbed.model), weights(run.model))


# What is refused before the first step


def data_with_a_stray_target(split: torch.Generator, *, stray: int) -> Data:
    inputs, targets = torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 2, stray])
    fine = InMemory(inputs, torch.tensor([0, 1, 2, 0]))
    return Data(
        train=fine, val=InMemory(inputs, targets), classes=("a", "b", "c"), channels=1,
        size=(8, 8), mean=(0.0,), std=(1.0,), digest="",
    )  # fmt: skip


def loss_per_sample(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output, target, reduction="none")


def loss_that_cannot_broadcast(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()  # (2, 3) and (2,)


def one_output_too_many() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 4))


def gives_two_things() -> nn.Module:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(256, 3)

        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(inputs.flatten(1)), inputs

    return Two()


def users_model(name: str) -> list[str]:
    gone = [f"~model.{key}" for key in ("hidden", "dropout", "channels", "size", "classes")]
    return ["model=mlp", *gone, f"model._target_={__name__}.{name}"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [f"loss._target_={__name__}.loss_per_sample"],
            r"^loss\._target_=\S+: gives \(2,\), not a tensor of shape \(\); average over",
        ),
        (
            [f"loss._target_={__name__}.loss_that_cannot_broadcast"],
            r"^loss\._target_=\S+: can't take outputs \(2, 3\) with targets \(2,\): The size of",
        ),
        (
            users_model("one_output_too_many"),
            r"^model\._target_=\S+: gives \(2, 4\) for 2 inputs in evaluation, but the data have 3",
        ),
        (users_model("gives_two_things"), r"^model\._target_=\S+: gives tuple for 2 inputs"),
        (["model.widths=[2,2,2,2,2]"], r"^model=vgg: can't take inputs of shape \(1, 16, 16\): "),
        (
            ["augment=flip_crop", "augment.padding=16"],
            r"^augment\.padding must be below the shorter",
        ),
    ],
    ids=["per sample", "broadcast", "outputs", "tuple", "too small", "padding"],
)
def test_what_would_fail_in_the_first_step_is_refused_before_it(
    built: Build, overrides: list[str], message: str
) -> None:
    with pytest.raises(SpecError, match=f"(?m){message}") as caught:
        built(*overrides, f"trust=[{__name__}]", "optimizer.lr=-1")
    assert all("\n" not in problem for problem in caught.value.problems)
    assert len(caught.value.problems) == 2  # and the learning rate, at once


@pytest.mark.parametrize("stray", [3, -1])
def test_target_outside_classes_is_rejected_before_first_step(built: Build, stray: int) -> None:
    gone = ("n_train", "n_val", "channels", "size", "n_classes")
    with pytest.raises(SpecError) as caught:
        built(
            f"data._target_={__name__}.data_with_a_stray_target", f"+data.stray={stray}",
            f"trust=[{__name__}]", *(f"~data.{name}" for name in gone), "data.classes=3",
            "model.channels=1",
        )  # fmt: skip
    assert caught.value.problems == [f"data: a validation target is {stray}, outside [0, 3)"]
