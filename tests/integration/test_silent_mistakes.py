"""What goes wrong silently in plain PyTorch, and what recipe does instead: a row for each pain.

In every row the first function lets it happen, by hand and in a few lines, and asserts that it
really does and that nothing is raised; the second asserts that recipe is right, refuses or reports.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torchinfo
from audited_runs import trained
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn import functional
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from recipe.checkpoint import state
from recipe.components.loss.mse_one_hot import mse_one_hot
from recipe.components.precision import AutocastAndScaler
from recipe.config.spec import RunSpec
from recipe.errors import RecipeError, SpecError
from recipe.nn import rng
from recipe.runner import plan
from recipe.training import build
from recipe.training.loop import MetricsEvent, train
from recipe.training.nonfinite import NonFiniteError
from recipe.training.run import Run

FROZEN = {
    "convolution1_1.weight", "convolution1_1.bias", "convolution1_2.weight", "convolution1_2.bias",
}  # fmt: skip
"""By freeze=vgg_first2."""

MINE = f"trust=[{__name__}]"


@dataclass(frozen=True)
class Ours:
    """recipe, with a small run on noise: 20 samples of 3 classes, 3 steps in each of 2 epochs."""

    spec: Callable[..., RunSpec]
    folder: Path

    def built(self, *overrides: str) -> Run:
        return build.build(self.spec(*overrides))

    def refuses(self, *overrides: str) -> list[str]:
        with pytest.raises(SpecError) as caught:
            self.built(*overrides)
        return caught.value.problems


def weights(run: Run) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def moved(before: dict[str, Tensor], run: Run) -> set[str]:
    """Parameters and buffers whose bits changed."""
    return {n for n, value in run.model.state_dict().items() if not torch.equal(value, before[n])}


def steps(points: list[MetricsEvent], key: str) -> list[float]:
    return [point.metrics[key] for point in points if not point.is_epoch_end]


def scalar(value: float, grad: float | None = None) -> nn.Parameter:
    p = nn.Parameter(torch.tensor(value))
    p.grad = None if grad is None else torch.tensor(grad)
    return p


# A freeze pattern that matches nothing


def a_pattern_matches_nothing_and_the_log_says_frozen() -> None:
    model, log = nn.Sequential(), []
    model.add_module("convolution1_1", nn.Conv2d(1, 2, 3))
    for pattern in ("conv1_1",):
        for name, parameter in model.named_parameters():
            if pattern in name:
                parameter.requires_grad = False
        log.append(f"{pattern} frozen")
    assert log == ["conv1_1 frozen"]
    assert all(parameter.requires_grad for parameter in model.parameters())


def a_pattern_that_matches_nothing_is_refused(ours: Ours) -> None:
    assert ours.refuses("freeze=by_name", "freeze.names=[conv1_1]") == [
        "freeze.names: 'conv1_1' matches none of the 18 parameters (nearest: convolution1_1, "
        "convolution2_1, convolution1_2)"
    ]
    run = ours.built("freeze=by_name", "freeze.names=[convolution1_1]")
    assert run.freeze_schedule.frozen_names == {
        "convolution1_1.weight", "convolution1_1.bias",
    }  # fmt: skip


# A frozen BatchNorm


def a_frozen_batchnorm_goes_on_learning() -> None:
    norm = nn.BatchNorm1d(1)
    model = nn.Sequential(norm).requires_grad_(False)
    norm.eval()
    model.train()  # as every epoch does; undoes the eval
    model(torch.tensor([[9.0], [11.0]]))
    statistics = [value.item() for value in (norm.running_mean, norm.running_var) if value]
    assert statistics == pytest.approx([1.0, 1.1])  # 0.9 * 0 + 0.1 * 10 and 0.9 * 1 + 0.1 * 2


def a_frozen_batchnorm_stays(ours: Ours) -> None:
    run = ours.built("freeze=first_layers", "freeze.count=1")
    before = weights(run)
    list(train(run))
    assert run.freeze_schedule.frozen_batchnorms == ["batchnorm1_1"]
    assert not {n for n in moved(before, run) if n.startswith("batchnorm1_1.")}
    assert {"batchnorm1_2.running_mean", "batchnorm1_2.running_var"} <= moved(before, run)


# A frozen parameter that moves


def a_frozen_parameter_moves_by_momentum_and_weight_decay() -> None:
    p = scalar(1.0, grad=1.0)
    optimizer = SGD([p], lr=1.0, momentum=0.9, weight_decay=0.1)
    optimizer.step()  # by 1 + 0.1 * 1
    assert p.item() == pytest.approx(-0.1)
    p.requires_grad_(False)
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()  # by 0.9 * 1.1 + 0.1 * -0.1
    assert p.item() == pytest.approx(-1.08)


def a_frozen_parameter_never_moves(ours: Ours) -> None:
    strong = ("freeze=vgg_first2", "optimizer.momentum=0.9", "optimizer.weight_decay=0.1")
    run = ours.built(*strong)
    before = weights(run)
    for name in FROZEN:  # as if left over from training it
        run.model.get_parameter(name).grad = torch.zeros_like(run.model.get_parameter(name))
    list(train(run))
    parameters = {name for name, _ in run.model.named_parameters()}
    assert parameters - moved(before, run) == FROZEN
    verdict = trained(ours.spec(*strong))["freeze"]
    assert verdict.has_passed and verdict.description.startswith("4 frozen parameters unchanged")


# The stale gradient of a frozen parameter


def a_stale_gradient_of_a_frozen_parameter_makes_the_clip_bite() -> None:
    frozen, p = scalar(0.0, grad=4.0).requires_grad_(False), scalar(0.0, grad=3.0)
    norm = nn.utils.clip_grad_norm_([frozen, p], max_norm=3.0)
    assert norm.item() == 5.0  # of 3 and 4; the gradient that counts is 3
    assert p.grad is not None and p.grad.item() == pytest.approx(1.8)  # 3 * 3 / 5


def a_clip_sees_the_gradients_of_the_optimizer_alone(ours: Ours) -> None:
    runs = [ours.built("freeze=vgg_first2", "clip=norm", "clip.max_norm=0.5") for _ in range(2)]
    for name in FROZEN:
        stale = runs[1].model.get_parameter(name)
        stale.grad = torch.full_like(stale, 1e6)
    norms = [steps(list(train(run)), "clip/grad_norm") for run in runs]
    assert norms[0] == norms[1]
    assert moved(weights(runs[0]), runs[1]) == set()


# Schedules that flatten the groups' learning rates


def two_groups() -> SGD:
    groups = [{"params": [scalar(0.0)], "lr": 0.1}, {"params": [scalar(0.0)], "lr": 0.001}]
    return SGD(groups)


def rates(optimizer: SGD) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def one_cycle_gives_all_groups_one_learning_rate() -> None:
    optimizer = two_groups()
    OneCycleLR(optimizer, max_lr=0.5, total_steps=10)
    assert rates(optimizer) == pytest.approx([0.02, 0.02])  # 0.5 / 25 for both, not 100 to 1


def one_cycle_keeps_the_ratio_of_the_groups(ours: Ours) -> None:
    two = "param_groups=head_faster"  # 0.05 and 0.5
    run = ours.built(two, "scheduler=one_cycle")
    for body, head in zip(run.lr_curves["body"], run.lr_curves["head"], strict=True):
        assert head == pytest.approx(10 * body)
    torchs = "scheduler._target_=torch.optim.lr_scheduler.OneCycleLR"
    assert ours.refuses(two, torchs, "+scheduler.max_lr=0.5", "+scheduler.total_steps=9") == [
        "scheduler.max_lr replaces the learning rate of every parameter group, so those "
        "given (body 0.05, head 0.5) would be ignored; use scheduler=one_cycle, which peaks at "
        "each group's learning rate"
    ]


def eta_min_raises_a_small_learning_rate() -> None:
    optimizer = two_groups()
    schedule = CosineAnnealingLR(optimizer, T_max=2, eta_min=0.01)
    for _ in range(2):
        optimizer.step()
        schedule.step()
    assert rates(optimizer) == pytest.approx([0.01, 0.01])  # the second rose, tenfold


def a_cosine_ends_at_a_part_of_each_groups_own(ours: Ours) -> None:
    two = "param_groups=head_faster"
    run = ours.built(two, "scheduler=cosine", "scheduler.minimum=0.2", "scheduler.per=epoch")
    # of two epochs the second is half-way: 0.2 + 0.8 / 2 of each
    assert run.lr_curves == {"body": pytest.approx([0.05, 0.03]), "head": pytest.approx([0.5, 0.3])}
    torchs = "scheduler._target_=torch.optim.lr_scheduler.CosineAnnealingLR"
    (problem,) = ours.refuses(two, torchs, "+scheduler.T_max=2", "+scheduler.eta_min=0.01")
    assert problem.startswith("scheduler.eta_min is 0.01, an absolute minimum, but the groups'")


# Scaled losses


def clipping_scaled_gradients_shrinks_what_was_within_the_limit() -> None:
    p = scalar(0.0)
    optimizer, scaler = SGD([p], lr=1.0), GradScaler("cpu", init_scale=4.0)
    scaler.scale(3 * p).backward()
    nn.utils.clip_grad_norm_([p], max_norm=6.0)  # 3 is below it, 4 * 3 isn't
    scaler.step(optimizer)
    assert p.item() == pytest.approx(-1.5)  # it should have been -3


def scaled(device: torch.device, *, scale: float) -> AutocastAndScaler:
    """A user's precision: everything in 32 bits, and the loss scaled all the same."""
    return nullcontext, GradScaler(device.type, init_scale=scale)


def scaled_by(scale: float) -> tuple[str, ...]:
    return MINE, f"precision._target_={__name__}.scaled", f"+precision.scale={scale}"


def a_clip_sees_unscaled_gradients(ours: Ours) -> None:
    clip = ("clip=norm", "clip.max_norm=0.5", "model.batchnorm=false")
    plain, scaling = ours.built(*clip), ours.built(*clip, *scaled_by(1024.0))
    norms = [steps(list(train(run)), "clip/grad_norm") for run in (plain, scaling)]
    assert norms[0] == norms[1] and max(norms[0]) > 0.5
    assert moved(weights(plain), scaling) == set()  # a power of two costs no bit
    assert trained(ours.spec(*clip, *scaled_by(1024.0)))["clip"].has_passed


def a_schedule_moves_on_though_the_optimizer_skipped_its_step() -> None:
    p = scalar(1.0)
    optimizer, scaler = SGD([p], lr=0.8), GradScaler("cpu", init_scale=2.0**127)
    schedule = ExponentialLR(optimizer, gamma=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the first step was skipped
        scaler.scale(3 * p).backward()  # 3 * 2**127 is beyond 32 bits
        scaler.step(optimizer)
        schedule.step()
    assert p.item() == 1.0
    assert rates(optimizer) == [0.4]


def fourfold(output: Tensor, target: Tensor) -> Tensor:
    return 4 * functional.cross_entropy(output, target)


def a_schedule_waits_for_the_optimizer(ours: Ours) -> None:
    run = ours.built(
        "scheduler=exponential", "scheduler.gamma=0.5", "scheduler.per=step", "optimizer.lr=0.01",
        "model.batchnorm=false", f"loss._target_={__name__}.fourfold", *scaled_by(2.0**127),
    )  # fmt: skip
    before, lr, skipped = weights(run), 0.01, 0
    for point in train(run):
        if point.is_epoch_end:
            continue
        assert point.metrics["lr/all"] == pytest.approx(lr)
        if moved(before, run):
            lr /= 2
        else:
            skipped += 1
        before = weights(run)
    assert skipped == 2  # 4 * ln 3 is beyond 2**128 when scaled by 2**127 and 2**126


# Going on from an earlier run


def momentum_of_one_layer_is_loaded_into_another() -> None:
    first, second = scalar(0.0, grad=5.0), scalar(0.0)
    saved = SGD([first], lr=1.0, momentum=0.9)  # the second is frozen
    saved.step()
    resumed = SGD([second], lr=1.0, momentum=0.9)  # now the first is
    resumed.load_state_dict(saved.state_dict())
    second.grad = torch.tensor(0.0)
    resumed.step()
    assert second.item() == pytest.approx(-4.5)  # 0.9 * 5, a gradient that it never had


def momentum_is_loaded_by_name_and_with_another_freeze_a_run_does_not_go_on(ours: Ours) -> None:
    momentum = ("optimizer.momentum=0.9", "freeze=by_name")
    first = ours.built(*momentum, "freeze.names=[convolution1_2]")
    points = train(first)
    for _ in range(2):
        next(points)
    saved = state.capture_state(first)
    then = ours.built(*momentum, "freeze.names=[convolution1_1]")
    with pytest.raises(RecipeError, match=r"^checkpoint: other parameters are trained, or"):
        state.restore_state(then, saved)
    state.load_optimizer_state(then, saved["optimizer"])  # as resuming with a changed spec does
    parameters = dict(then.model.named_parameters())
    for name, kept in saved["optimizer"]["state"].items():
        if not name.startswith("convolution1_1."):
            loaded = then.optimizer.state[parameters[name]]["momentum_buffer"]
            assert torch.equal(loaded, kept["momentum_buffer"])
    assert not [
        name for name, p in parameters.items()
        if name.startswith("convolution1_") and p in then.optimizer.state
    ]  # fmt: skip


def a_run_goes_on_without_its_freeze() -> None:
    model = nn.Linear(1, 1)
    model.weight.requires_grad_(False)
    again = nn.Linear(1, 1)
    again.load_state_dict(model.state_dict())  # holds numbers, and not what was frozen
    assert again.weight.requires_grad


def a_run_is_resumed_and_repeated_with_its_freeze(ours: Ours) -> None:
    spec = ours.spec("freeze=vgg_first2", "freeze.batchnorm=eval")
    first = build.build(spec)
    points = train(first)
    for _ in range(2):
        next(points)
    saved = state.capture_state(first)
    list(points)

    written = ours.folder / "spec.yaml"
    written.write_text(spec.to_yaml(), encoding="utf-8")
    again = build.build(RunSpec.from_file(written, trust=[]))  # recipe spec=spec.yaml
    state.restore_state(again, saved)  # recipe resume
    before = weights(again)
    list(train(again))
    assert again.freeze_schedule.frozen_names == FROZEN and FROZEN.isdisjoint(moved(before, again))
    assert moved(weights(first), again) == set()


# Infinity


def one_infinite_gradient_becomes_nan_everywhere_and_training_goes_on() -> None:
    first, second = scalar(1.0), scalar(1.0)
    optimizer = SGD([first, second], lr=0.1)
    for infinite in (math.inf, 0.0):
        optimizer.zero_grad()
        (first * second * 2).backward()
        assert first.grad is not None
        first.grad += infinite
        nn.utils.clip_grad_norm_([first, second], max_norm=1.0)
        optimizer.step()
    assert math.isnan(first.item()) and math.isnan(second.item())


def slope_without_end(output: Tensor, target: Tensor) -> Tensor:
    """The loss is finite, its gradient is that of a square root at 0."""
    return functional.cross_entropy(output, target) + (output - output.detach()).sqrt().sum()


def an_infinite_gradient_stops_the_run_before_the_weights(ours: Ours) -> None:
    run = ours.built("clip=norm", MINE, f"loss._target_={__name__}.slope_without_end")
    before = dict(run.model.named_parameters())
    kept = {name: p.detach().clone() for name, p in before.items()}
    with pytest.raises(NonFiniteError) as caught:
        list(train(run))
    assert (caught.value.location["step"], caught.value.summary) == (
        1,
        "the norm of the gradients is nan",
    )
    (problem,) = caught.value.problems
    assert "the loss is finite, but not its gradient at the model's output" in problem
    assert all(torch.equal(p, kept[name]) for name, p in before.items())


# Shapes that broadcast


def a_perfect_prediction_has_a_squared_error() -> None:
    output, targets = torch.eye(2), torch.tensor([0, 1])
    with pytest.warns(UserWarning, match="will likely lead to incorrect results"):
        found = functional.mse_loss(output, targets)
    assert found.item() == 0.5  # (1, 0) and (0, 1), each against (0, 1)


def indices_are_made_one_hot_or_refused(ours: Ours) -> None:
    assert mse_one_hot(torch.eye(2), torch.tensor([0, 1])).item() == 0.0
    assert ours.refuses("loss._target_=torch.nn.MSELoss", "data.classes=2") == [
        "loss._target_=torch.nn.MSELoss: can't take outputs (3, 2) with targets (3,): they would "
        "broadcast to a wrong loss; leave loss._target_ out, or use loss=mse_one_hot"
    ]


# Random streams


def a_summary_changes_a_seeded_run() -> None:
    drawn = []
    for summary in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5))
        if summary:
            torchinfo.summary(model, input_size=(1, 4), verbose=0)
        drawn.append(torch.rand(3).tolist())
    assert drawn[0] != drawn[1]


def a_summary_changes_nothing(ours: Ours) -> None:
    spec = ours.spec("model.dropout=0.5")
    runs = [build.build(spec) for _ in range(2)]
    before = torch.get_rng_state()
    assert plan.make_plan(spec, runs[0]).model_summary.statistics.total_params > 0
    assert torch.equal(torch.get_rng_state(), before)
    losses = [steps(list(train(run)), "train/loss") for run in runs]
    assert losses[0] == losses[1]


def seed_0_is_no_seed() -> None:
    drawn = []
    for _ in range(2):
        config = {"seed": 0}
        if config.get("seed"):
            torch.manual_seed(config["seed"])
        drawn.append(torch.rand(3).tolist())
    assert drawn[0] != drawn[1]


def seed_0_is_a_seed_like_any_other(ours: Ours) -> None:
    runs = [ours.built(f"seed={seed}", "model.dropout=0.5") for seed in (0, 0, 1)]
    losses = [steps(list(train(run)), "train/loss") for run in runs]
    assert losses[0] == losses[1] != losses[2]
    assert rng.derive_seed(0, "weights") != rng.derive_seed(0, "order")


def looking_at_the_validation_data_changes_the_training() -> None:
    drawn = []
    for validate in (False, True):
        torch.manual_seed(0)
        if validate:
            list(
                DataLoader(TensorDataset(torch.zeros(3)))
            )  # not even shuffled; an iterator draws a seed
        drawn.append(torch.randperm(20).tolist())
    assert drawn[0] != drawn[1]


def only_training_decides_what_comes_next(ours: Ours) -> None:
    """The order of an epoch depends on seed and epoch alone, so more validation, here in smaller
    batches, leaves training as it is."""
    runs = [ours.built("model.dropout=0.5", f"data.eval_batch_size={n}") for n in (1, 4)]
    losses = [steps(list(train(run)), "train/loss") for run in runs]
    assert losses[0] == losses[1]


def an_augmentation_changes_the_dropout() -> None:
    masks = []
    for augment in (False, True):
        torch.manual_seed(0)
        if augment:
            torch.rand(4)  # whom to flip
        masks.append(functional.dropout(torch.ones(50)).tolist())
    assert masks[0] != masks[1]


def draws_its_own(
    inputs: Tensor, targets: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    flips = torch.rand(len(inputs), generator=generator) < 0.0
    return torch.where(flips[:, None, None, None], inputs.flip(3), inputs), targets


def draws_what_is_everyones(
    inputs: Tensor, targets: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    torch.rand(len(inputs))
    return inputs, targets


def an_augmentation_has_a_stream_of_its_own(ours: Ours) -> None:
    common = ("model.dropout=0.5", MINE)
    mine = f"augment._target_={__name__}."
    runs = [ours.built(*common), ours.built(*common, f"{mine}draws_its_own")]
    losses = [steps(list(train(run)), "train/loss") for run in runs]
    assert losses[0] == losses[1]
    verdict = trained(ours.spec(*common, f"{mine}draws_what_is_everyones"))["augment"]
    assert (
        verdict.problems[0]
        == "it draws from a global random stream, not from its generator (batch 1)"
    )


PAINS = {
    "a freeze pattern matches nothing, and the log says frozen": (
        a_pattern_matches_nothing_and_the_log_says_frozen,
        a_pattern_that_matches_nothing_is_refused,
    ),
    "a frozen BatchNorm goes on learning": (
        a_frozen_batchnorm_goes_on_learning,
        a_frozen_batchnorm_stays,
    ),
    "a frozen parameter moves by momentum and weight decay": (
        a_frozen_parameter_moves_by_momentum_and_weight_decay,
        a_frozen_parameter_never_moves,
    ),
    "the stale gradient of a frozen parameter makes the clip bite": (
        a_stale_gradient_of_a_frozen_parameter_makes_the_clip_bite,
        a_clip_sees_the_gradients_of_the_optimizer_alone,
    ),
    "one-cycle gives all groups one learning rate": (
        one_cycle_gives_all_groups_one_learning_rate,
        one_cycle_keeps_the_ratio_of_the_groups,
    ),
    "a cosine's eta_min raises a small learning rate": (
        eta_min_raises_a_small_learning_rate,
        a_cosine_ends_at_a_part_of_each_groups_own,
    ),
    "gradients are clipped while they are still scaled": (
        clipping_scaled_gradients_shrinks_what_was_within_the_limit,
        a_clip_sees_unscaled_gradients,
    ),
    "the schedule moves though the optimizer skipped its step": (
        a_schedule_moves_on_though_the_optimizer_skipped_its_step,
        a_schedule_waits_for_the_optimizer,
    ),
    "one layer's momentum is loaded into another": (
        momentum_of_one_layer_is_loaded_into_another,
        momentum_is_loaded_by_name_and_with_another_freeze_a_run_does_not_go_on,
    ),
    "a run goes on without its freeze": (
        a_run_goes_on_without_its_freeze,
        a_run_is_resumed_and_repeated_with_its_freeze,
    ),
    "one infinite gradient becomes NaN everywhere": (
        one_infinite_gradient_becomes_nan_everywhere_and_training_goes_on,
        an_infinite_gradient_stops_the_run_before_the_weights,
    ),
    "class indices broadcast over the outputs of a squared error": (
        a_perfect_prediction_has_a_squared_error,
        indices_are_made_one_hot_or_refused,
    ),
    "a summary changes a seeded run": (a_summary_changes_a_seeded_run, a_summary_changes_nothing),
    "seed 0 is no seed": (seed_0_is_no_seed, seed_0_is_a_seed_like_any_other),
    "looking at the validation data changes the training": (
        looking_at_the_validation_data_changes_the_training,
        only_training_decides_what_comes_next,
    ),
    "an augmentation changes the dropout": (
        an_augmentation_changes_the_dropout,
        an_augmentation_has_a_stream_of_its_own,
    ),
}
"""Pain: how it happens in plain PyTorch, and what recipe does."""


@pytest.mark.parametrize("happens", [plain for plain, _ in PAINS.values()], ids=PAINS)
def test_pitfall_occurs_silently_in_plain_torch(happens: Callable[[], None]) -> None:
    happens()


@pytest.mark.parametrize("holds", [ours for _, ours in PAINS.values()], ids=PAINS)
def test_pitfall_is_prevented_or_reported_by_recipe(
    holds: Callable[[Ours], None], small: Callable[..., RunSpec], tmp_path: Path
) -> None:
    holds(Ours(small, tmp_path))
