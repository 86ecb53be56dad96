"""The audit: it reports an engine that breaks a promise, and names the tricks that did nothing.

The engine is really broken here, one line at a time; without a break every promise holds.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recipe.audit.auditor import Audit, AuditResult
from recipe.components import contract
from recipe.config.spec import RunSpec
from recipe.nn import rng
from recipe.training import build as building
from recipe.training import freezing, loop, param_groups
from recipe.training import step as training_step
from recipe.training.frozen_cache.inputs import ModelInputs
from recipe.training.loop import MetricsEvent
from recipe.training.lr_schedule import LRSchedule
from recipe.training.run import Run
from recipe.training.step_components import StepComponent

Small = Callable[..., RunSpec]

TRICKS = (
    "freeze=first_layers", "freeze.count=1", "param_groups=head_faster", "scheduler=exponential",
    "clip=norm", "clip.max_norm=0.5", "optimizer.weight_decay=0.01",
)  # fmt: skip


def audited(spec: RunSpec, change: Callable[[Run], None] = lambda run: None) -> list[AuditResult]:
    """The last verdicts of the whole run, whatever they are."""
    run = building.build(spec)
    change(run)
    verdicts: list[AuditResult] = []
    with Audit(spec, run) as audit:
        for point in loop.train(run):
            verdicts = audit.check(point) or verdicts
    return verdicts


def broken(verdicts: list[AuditResult]) -> dict[str, str]:
    return {v.group: "; ".join(v.problems) for v in verdicts if not v.has_passed}


def test_an_intact_engine_passes_every_audit(small: Small) -> None:
    verdicts = audited(small(*TRICKS))
    assert broken(verdicts) == {}
    assert [v.group for v in verdicts] == [
        "sampler", "loss", "freeze", "param_groups", "optimizer", "sharpness", "scheduler",
        "warmup", "clip", "precision", "augment", "average", "evaluation", "stop",
    ]  # fmt: skip


# what is broken, each as it has been seen in real training code


def freeze_is_lost(patch: pytest.MonkeyPatch) -> None:
    plain = freezing.apply_freeze

    def apply_freeze(spec: RunSpec, freeze: Any, model: nn.Module) -> freezing.FreezeSchedule:
        kept = plain(spec, freeze, model)
        model.requires_grad_(True)
        return kept

    patch.setattr(freezing, "apply_freeze", apply_freeze)


def frozen_gradients_are_zero_instead_of_none(patch: pytest.MonkeyPatch) -> None:
    """Momentum and weight decay then move what is frozen."""
    plain, step = param_groups.OptimizerBuilder.build_optimizer, training_step.training_step

    def optimizer(
        self: param_groups.OptimizerBuilder,
        groups: list[dict[str, Any]],
        kept: freezing.FreezeSchedule,
    ) -> torch.optim.Optimizer:
        made = plain(self, groups, kept)
        held = {group["name"]: group for group in made.param_groups}
        for group in groups:
            for p in group["params"]:
                if not p.requires_grad and group["name"] in held:
                    held[group["name"]]["params"].append(p)
        return made

    def zeroed(run: Run, *rest: Any) -> training_step.StepOutput:
        for p in run.model.parameters():
            if not p.requires_grad:
                p.grad = torch.zeros_like(p)
        return step(run, *rest)

    patch.setattr(param_groups.OptimizerBuilder, "build_optimizer", optimizer)
    patch.setattr(training_step, "training_step", zeroed)


def batchnorm_obeys_model_train(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(freezing, "_keep_eval_mode", nn.Module.train)


def all_groups_get_the_same_rate(patch: pytest.MonkeyPatch) -> None:
    plain = param_groups.OptimizerBuilder.check_groups

    def groups(
        self: param_groups.OptimizerBuilder, model: nn.Module, made: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        return [{**group, "lr": 0.05} for group in plain(self, model, made)]

    patch.setattr(param_groups.OptimizerBuilder, "check_groups", groups)


def one_rate_for_all_after_the_first_epoch(patch: pytest.MonkeyPatch) -> None:
    plain = LRSchedule.after_epoch

    def after_epoch(self: LRSchedule, metrics: Any) -> None:
        plain(self, metrics)
        for group in self.scheduler.optimizer.param_groups:
            group["lr"] = 0.02

    patch.setattr(LRSchedule, "after_epoch", after_epoch)


def parameters_change_places(patch: pytest.MonkeyPatch) -> None:
    plain = param_groups.OptimizerBuilder.build_optimizer

    def optimizer(self: param_groups.OptimizerBuilder, *rest: Any) -> torch.optim.Optimizer:
        made = plain(self, *rest)
        body, head = made.param_groups
        head["params"].append(body["params"].pop())
        return made

    patch.setattr(param_groups.OptimizerBuilder, "build_optimizer", optimizer)


def the_schedule_moves_twice(patch: pytest.MonkeyPatch) -> None:
    plain = LRSchedule.after_epoch

    def after_epoch(self: LRSchedule, metrics: Any) -> None:
        plain(self, metrics)
        plain(self, metrics)

    patch.setattr(LRSchedule, "after_epoch", after_epoch)


def the_schedule_never_moves(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LRSchedule, "after_epoch", lambda self, metrics: None)


def step_with(
    order: Callable[[Run], tuple[Tensor, Tensor]],
) -> Callable[..., training_step.StepOutput]:
    """The engine's step, in which what comes after backward is done in another order."""

    def step(
        run: Run, feed: ModelInputs, model: nn.Module, inputs: Tensor, targets: Tensor, of: int
    ) -> training_step.StepOutput:
        inputs, goal = run.augment(inputs, targets, run.position.augmentation_rng)
        loss = run.loss(model(inputs), goal)
        run.scaler.scale(loss).backward()
        norm, bit = order(run)
        run.scaler.update()
        run.optimizer.zero_grad()
        told = loss.detach()
        return training_step.StepOutput(
            told, told, norm.detach(), bit, has_stepped=True, is_skipped=False
        )

    return step


def clip_after_the_step(patch: pytest.MonkeyPatch) -> None:
    def order(run: Run) -> tuple[Tensor, Tensor]:
        run.scaler.step(run.optimizer)
        return run.clip(training_step.params_with_grad(run.optimizer))

    patch.setattr(training_step, "training_step", step_with(order))


def clip_before_unscaling(patch: pytest.MonkeyPatch) -> None:
    def order(run: Run) -> tuple[Tensor, Tensor]:
        told = run.clip(training_step.params_with_grad(run.optimizer))
        run.scaler.unscale_(run.optimizer)
        run.scaler.step(run.optimizer)
        return told

    patch.setattr(training_step, "training_step", step_with(order))


def no_clip_at_all(patch: pytest.MonkeyPatch) -> None:
    def order(run: Run) -> tuple[Tensor, Tensor]:
        run.scaler.step(run.optimizer)
        return torch.zeros(()), torch.zeros(())

    patch.setattr(training_step, "training_step", step_with(order))


def gradients_change_after_the_clip(patch: pytest.MonkeyPatch) -> None:
    def order(run: Run) -> tuple[Tensor, Tensor]:
        told = run.clip(params := training_step.params_with_grad(run.optimizer))
        params[0].grad.mul_(2)  # type: ignore[union-attr]
        run.scaler.step(run.optimizer)
        return told

    patch.setattr(training_step, "training_step", step_with(order))


def some_gradients_are_kept_from_the_clip(patch: pytest.MonkeyPatch) -> None:
    plain = training_step.params_with_grad
    patch.setattr(training_step, "params_with_grad", lambda optimizer: plain(optimizer)[1:])


def two_steps_a_batch(patch: pytest.MonkeyPatch) -> None:
    def order(run: Run) -> tuple[Tensor, Tensor]:
        told = run.clip(training_step.params_with_grad(run.optimizer))
        run.optimizer.step()
        run.optimizer.step()
        return told

    patch.setattr(training_step, "training_step", step_with(order))


def hits_are_counted_twice(patch: pytest.MonkeyPatch) -> None:
    plain = training_step.training_step

    def step(*arguments: Any) -> training_step.StepOutput:
        done = plain(*arguments)
        return done._replace(is_clipped=done.is_clipped * 2)

    patch.setattr(training_step, "training_step", step)


@pytest.mark.parametrize(
    ("break_it", "group", "problem"),
    [
        (freeze_is_lost, "freeze", "convolution1_1.weight (frozen) has changed since"),
        (
            freeze_is_lost,
            "optimizer",
            "convolution1_1.weight is in the optimizer, but should be frozen",
        ),
        (
            frozen_gradients_are_zero_instead_of_none,
            "freeze",
            "convolution1_1.weight (frozen) has changed since the start",
        ),
        (
            batchnorm_obeys_model_train,
            "freeze",
            "batchnorm1_1.running_mean (statistics of a frozen BatchNorm) has changed since",
        ),
        (
            all_groups_get_the_same_rate,
            "param_groups",
            "the ratio between the groups head and body is 0.05 to 0.05, not 0.5 to 0.05",
        ),
        (
            one_rate_for_all_after_the_first_epoch,
            "param_groups",
            "the ratio between the groups head and body is 0.02 to 0.02, not 0.5 to 0.05 (batch 6)",
        ),
        (parameters_change_places, "param_groups", "batchnorm2_2.bias is in the group head"),
        (
            the_schedule_moves_twice,
            "scheduler",
            "lr/body is 0.0405 after 1 scheduler steps, not 0.045",
        ),
        (the_schedule_moves_twice, "scheduler", "it took 4 steps, the optimizer 6"),
        (the_schedule_never_moves, "scheduler", "it took 0 steps"),
        (clip_after_the_step, "clip", "the optimizer steps before the gradients are clipped"),
        (no_clip_at_all, "clip", "the optimizer steps before the gradients are clipped"),
        (
            gradients_change_after_the_clip,
            "clip",
            "gradients change between the clip and the optimizer",
        ),
        (
            some_gradients_are_kept_from_the_clip,
            "clip",
            "it is called without 1 of the optimizer's gradients",
        ),
        (two_steps_a_batch, "optimizer", "it took 12 steps in 6 batches, 0 skipped"),
        (hits_are_counted_twice, "clip", "of steps, not "),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_broken_engine_fails_audit(
    small: Small,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[pytest.MonkeyPatch], None],
    group: str,
    problem: str,
) -> None:
    break_it(monkeypatch)
    found = broken(audited(small(*TRICKS)))
    assert problem in found.get(group, ""), found


def test_clipping_before_unscaling_is_reported(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scaled(run: Run) -> None:
        run.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    assert broken(audited(small(*TRICKS), scaled)) == {}
    clip_before_unscaling(monkeypatch)
    found = broken(audited(small(*TRICKS), scaled))
    assert "its gradients are not those of the unscaled loss" in found["clip"]


def test_schedule_step_after_skipped_optimizer_step_is_reported(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    def order(run: Run) -> tuple[Tensor, Tensor]:
        run.scaler.unscale_(run.optimizer)
        told = run.clip(training_step.params_with_grad(run.optimizer))
        run.scaler.step(run.optimizer)
        run.lr_schedule.after_step()
        return told

    def overflowing(run: Run) -> None:
        """The first step's gradients are no numbers, which the scaler puts down to its scale."""
        run.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        plain, calls = run.loss, iter(range(100))
        run.loss = StepComponent(
            lambda output, target: (
                plain(output, target)
                + ((0 * output).sum().sqrt() if output.requires_grad and next(calls) == 0 else 0)
            )
        )

    spec = small("scheduler=exponential", "scheduler.per=step", "clip=norm")
    assert "scheduler" not in broken(audited(spec, overflowing))
    monkeypatch.setattr(training_step, "training_step", step_with(order))
    assert "it took 6 steps, the optimizer 5" in broken(audited(spec, overflowing))["scheduler"]


def draws_globally(inputs: Tensor, targets: Tensor, stream: torch.Generator) -> tuple[Tensor, ...]:
    return inputs + torch.randn(()), targets


NUMPY, PYTHON, TORCH = np.random.default_rng(0), random.Random(0), torch.Generator()


def draws_from_numpys_generator(
    inputs: Tensor, targets: Tensor, stream: torch.Generator
) -> tuple[Tensor, ...]:
    return inputs + float(NUMPY.random()), targets


def draws_from_a_generator_made_in_the_call(
    inputs: Tensor, targets: Tensor, stream: torch.Generator
) -> tuple[Tensor, ...]:
    return inputs + float(np.random.default_rng().random()), targets


def draws_from_pythons_generator(
    inputs: Tensor, targets: Tensor, stream: torch.Generator
) -> tuple[Tensor, ...]:
    return inputs, targets.roll(PYTHON.randrange(1, len(targets)))


def draws_from_another_generator_of_torch(
    inputs: Tensor, targets: Tensor, stream: torch.Generator
) -> tuple[Tensor, ...]:
    return inputs + torch.rand((), generator=TORCH), targets


def changes_in_place(
    inputs: Tensor, targets: Tensor, stream: torch.Generator
) -> tuple[Tensor, ...]:
    return inputs.mul_(2), targets


def turns_after_the_first_batch(
    inputs: Tensor, targets: Tensor, stream: torch.Generator
) -> tuple[Tensor, ...]:
    """Two samples are tried before the run; a batch has more."""
    mixed = nn.functional.one_hot(targets, 3).float()
    return inputs, mixed if len(targets) > 2 else targets


def changes_targets_alone(
    inputs: Tensor, targets: Tensor, stream: torch.Generator
) -> tuple[Tensor, ...]:
    return inputs, targets.roll(1)


def freezes_by_chance(model: nn.Module) -> None:
    for p in model.parameters():
        p.requires_grad_(bool(torch.rand(()) < 0.5))


class Functional(nn.Module):
    """Computes with a parameter of its own, in no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 256) / 256)

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.linear(inputs.flatten(1), self.weight).float()


MINE = f"trust=[{__name__}]"


@pytest.mark.parametrize(
    "overrides",
    [
        [f"augment._target_={__name__}.changes_targets_alone", "augment=flip_crop"],
        [
            "model=mlp", f"model._target_={__name__}.Functional", "precision=bf16",
            *(f"~model.{key}" for key in ("hidden", "dropout", "channels", "size", "classes")),
        ],
        [f"freeze._target_={__name__}.freezes_by_chance", "model=mlp", "model.hidden=[4,4,4]"],
        ["model=mlp", "on_nonfinite=skip"],
    ],
    ids=["targets alone", "no layers", "random freeze", "skip without buffers"],
)  # fmt: skip
def test_unusual_but_valid_components_pass_the_audit(small: Small, overrides: list[str]) -> None:
    more = (
        [f"~augment.{key}" for key in ("padding", "flip")] if "flip_crop" in overrides[-1] else []
    )
    verdicts = audited(small(*overrides, *more, MINE))
    assert broken(verdicts) == {} and not [v for v in verdicts if v.no_effect_reason]


TWICE = "called twice with the same batch and generator state, it returns different results"


@pytest.mark.parametrize(
    ("augment", "problem"),
    [
        (draws_globally, "it draws from a global random stream, not from its generator"),
        (draws_from_numpys_generator, TWICE),
        (draws_from_a_generator_made_in_the_call, TWICE),
        (draws_from_pythons_generator, TWICE),
        (draws_from_another_generator_of_torch, TWICE),
        (changes_in_place, "it changes its inputs in place"),
        (turns_after_the_first_batch, "it returns probabilities, not indices"),
    ],
)
def test_augmentation_breaking_contract_is_reported(
    small: Small, augment: Any, problem: str
) -> None:
    spec = small(f"augment._target_={__name__}.{augment.__name__}", f"trust=[{__name__}]")
    assert problem in broken(audited(spec))["augment"]


def test_audit_reports_targets_the_loss_does_not_accept(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the engine had made them one-hot on the way to a loss that takes indices."""
    spec = small("loss.takes=[indices]")

    def one_hot(run: Run) -> None:
        plain = run.augment
        run.augment = StepComponent(
            lambda i, t, s: (plain(i, t, s)[0], nn.functional.one_hot(t, 3).float())
        )

    found = broken(audited(spec, one_hot))
    assert "targets are probabilities, but the loss takes indices" in found["loss"]


def lying_clip(params: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
    for p in params:
        p.grad.mul_(0.5)  # type: ignore[union-attr]
    return torch.ones(()), torch.zeros(())


def useless_clip(params: list[nn.Parameter], *, limit: float) -> tuple[Tensor, Tensor]:
    return torch.ones(()), torch.ones(())


@contract.audit(useless_clip)
def audit_useless_clip(params: list[nn.Parameter], *, limit: float) -> list[str]:
    return [f"an entry is above {limit}" for p in params if p.grad.abs().max() > limit]  # type: ignore[union-attr]


def test_the_audit_of_a_users_clip_is_applied(small: Small) -> None:
    trust = f"trust=[{__name__}]"
    lying = broken(audited(small(f"clip._target_={__name__}.lying_clip", trust)))
    assert "it changes gradients, but reports that it did not clip" in lying["clip"]
    useless = small(f"clip._target_={__name__}.useless_clip", "+clip.limit=1e-9", trust)
    assert "an entry is above 1e-09 (batch 1)" in broken(audited(useless))["clip"]


TENTH = "[{option: constant, scale: 0.1, length: 1}, {option: constant, scale: 0.1}]"


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["clip=norm", "clip.max_norm=1e9"], "it never clipped"),
        (["clip=agc", "clip.ratio=1e9"], "it never clipped"),
        (["scheduler=step", "scheduler.step_size=2"], "it never changed a learning rate"),
        (
            ["scheduler=plateau", "scheduler.patience=5", "warmup=linear", "warmup.share=0.5"],
            "it never changed a learning rate",  # only the warm-up did
        ),
        (["freeze=gradual", "freeze.stages=[{epoch: 0, names: ['*2_*']}]"], "nothing was frozen"),
        (
            ["param_groups=head_faster", "param_groups.factor=1"],
            "every parameter got the optimizer's own settings",
        ),
        (
            ["param_groups=no_decay", "optimizer.weight_decay=0"],
            "every parameter got the optimizer's own settings",
        ),
        (
            ["average=swa", "model.batchnorm=false"],
            "the averaged weights and statistics are those of the last step",
        ),
        (["loss=class_weights", "loss.weights=[1,1,1]"], "every class has weight 1"),
    ],
)
def test_a_trick_without_effect_is_reported_with_the_reason(
    small: Small, overrides: list[str], why: str
) -> None:
    verdicts = audited(small(*overrides))
    assert broken(verdicts) == {}
    group, option = overrides[0].split("=")
    assert [(v.group, v.option, v.no_effect_reason) for v in verdicts if v.no_effect_reason] == [
        (group, option, why)
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        ["clip=norm", "clip.max_norm=1e-3"],
        ["scheduler=step", "scheduler.step_size=1"],
        ["average=swa"],  # of one epoch, after which BatchNorm's statistics are measured anew
        ["loss=class_weights", "loss.weights=[1,2,1]"],
        ["freeze=vgg_first2"],
        ["freeze=gradual", "freeze.stages=[{epoch: 1, names: ['*2_*']}]"],
        ["freeze=first_layers", "freeze.batchnorm=affine_only"],
        ["freeze=first_layers", "freeze.batchnorm=train"],
        ["param_groups=head_faster"],
        ["param_groups=head_faster", "freeze=all_but_head"],  # one group is left, 10 times as fast
        ["param_groups=by_name", "param_groups.rules=[{match: '*', name: every, momentum: 0.5}]"],
        ["scheduler=chained", f"scheduler.parts={TENTH}"],  # never moves, but is another rate
        ["param_groups=no_decay", "optimizer.weight_decay=0.1"],
        ["average=swa", "average.start=0.5"],
        ["average=ema"],
        ["augment=flip_crop"],
        ["augment=mixup"],
        ["precision=bf16"],
    ],
)
def test_a_trick_with_an_effect_is_not_reported_as_without(
    small: Small, overrides: list[str]
) -> None:
    verdicts = audited(small(*overrides))
    assert broken(verdicts) == {} and not [v for v in verdicts if v.no_effect_reason]


def test_an_optimizer_with_torchs_default_learning_rate_passes(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    option = "# Adagrad.\n_target_: torch.optim.Adagrad\n"
    commands.project(tmp_path, {"conf/optimizer/adagrad.yaml": option})
    monkeypatch.chdir(tmp_path)
    assert broken(audited(small("optimizer=adagrad", "scheduler=cosine"))) == {}


def freezes_what_is_small(model: nn.Module) -> None:
    """A user's freeze that looks at the weights."""
    for p in model.parameters():
        p.requires_grad_(float(p.detach().abs().max()) > 0.9)


def test_a_freeze_that_reads_the_weights_is_audited(small: Small) -> None:
    spec = small(f"freeze._target_={__name__}.freezes_what_is_small", f"trust=[{__name__}]")
    (verdict,) = [v for v in audited(spec) if v.group == "freeze"]
    assert verdict.has_passed and verdict.description.startswith(
        "14 frozen parameters"
    )  # not 4 BatchNorm weights


def toggles_in_the_forward_pass(model: nn.Module, *, to: bool) -> None:
    first = next(model.parameters()).requires_grad_(not to)

    def toggle(module: nn.Module, *_: object) -> None:
        if torch.is_grad_enabled():
            first.requires_grad_(to)

    model.register_forward_hook(toggle)


@pytest.mark.parametrize(("to", "required"), [(False, "trained"), (True, "frozen")])
def test_a_freeze_that_acts_within_the_forward_pass_fails_its_audit(
    small: Small, to: bool, required: str
) -> None:
    name = f"freeze._target_={__name__}.toggles_in_the_forward_pass"
    found = broken(audited(small(name, f"+freeze.to={to}", f"trust=[{__name__}]")))
    problem = f"has requires_grad={to} when the optimizer steps, but should be {required}"
    assert problem in found["freeze"]


def removes_gradients(params: list[nn.Parameter]) -> Tensor:
    norm = nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
    params[0].grad = None
    return norm


def test_clip_may_remove_gradients(small: Small) -> None:
    spec = small(f"clip._target_={__name__}.removes_gradients", f"trust=[{__name__}]")
    assert broken(audited(spec)) == {}


def test_measurements_change_no_results(small: Small) -> None:
    """Weights, metrics and streams are those of a run that nobody audits."""
    spec = small(*TRICKS, "augment=flip_crop", "model.dropout=0.3", "average=ema")

    def weights_and_points(audit: bool) -> tuple[dict[str, Tensor], list[MetricsEvent]]:
        run = building.build(spec)
        rng.seed_global_rng(0, "test")
        if not audit:
            points = list(loop.train(run))
        else:
            points = []
            with Audit(spec, run) as watching:
                for point in loop.train(run):
                    watching.check(point)
                    points.append(point)
        return run.average.model.state_dict(), points

    (plain, points), (watched, seen) = weights_and_points(False), weights_and_points(True)
    assert all(torch.equal(value, watched[name]) for name, value in plain.items())
    timed = ("time/", "memory/")
    for point, other in zip(points, seen, strict=True):
        assert {k: v for k, v in point.metrics.items() if not k.startswith(timed)} == {
            k: v for k, v in other.metrics.items() if not k.startswith(timed)
        }


def test_audit_removes_hooks_at_exit(small: Small) -> None:
    spec = small("clip=norm")
    run = building.build(spec)
    with Audit(spec, run) as audit:
        points = loop.train(run)
        audit.check(next(points))
    next(points)
    assert audit.step_monitor.batches == 1
    assert not run.optimizer._optimizer_step_pre_hooks
    assert not any(module._forward_hooks for module in run.model.modules())


def test_a_failed_audit_fails_the_run_and_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batchnorm_obeys_model_train(monkeypatch)
    done = commands.run(
        tmp_path, *commands.QUICK, "tracking=none", "freeze=first_layers", "freeze.count=1"
    )
    assert done.status == 1
    assert done.problems[0] == (
        "recipe: audit: freeze=first_layers failed its audit: batchnorm1_1.running_mean "
        "(statistics of a frozen BatchNorm) has changed since the start (batch 2)"
    )
    assert "BROKEN" in done.out
    (run,) = commands.run_dirs(tmp_path)
    assert commands.read_json(run / "run.json")["status"] == "FAILED"
    points = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told = next(p["metrics"] for p in points if "audit/freeze" in p["metrics"])
    assert told.pop("audit/freeze") == 0.0 and set(told.values()) == {1.0}
    assert points[-1]["step"] == 2  # at once, not at the end


def test_the_result_lists_tricks_without_effect(tmp_path: Path) -> None:
    done = commands.run(
        tmp_path, *commands.QUICK, "tracking=none", "clip=norm", "clip.max_norm=1e9",
        "scheduler=step",
    )  # fmt: skip
    assert done.status == 0
    lines = [line for line in done.out.splitlines() if "had no effect" in line]
    assert lines == [
        "Caution scheduler=step had no effect: it never changed a learning rate; this run is "
        "no evidence about it",
        "Caution clip=norm had no effect: it never clipped; this run is no evidence about it",
    ]
    (run,) = commands.run_dirs(tmp_path)
    events = commands.read_lines(run / "events.jsonl")
    tags = {k: v for line in events if line["kind"] == "tags" for k, v in line.items()}
    assert tags["recipe.no_effect"] == "scheduler=step, clip=norm"


def cautions(folder: Path, *overrides: str) -> list[str]:
    done = commands.run(folder, *commands.CPU, "tracking=none", *overrides)
    assert done.status == 0, done.err
    lines = [line for line in done.out.splitlines() if line.startswith("Caution ")]
    return [line.removeprefix("Caution ") for line in lines]


def test_increased_training_loss_prints_caution(tmp_path: Path) -> None:
    diverged = cautions(tmp_path, *commands.QUICK[2:], "optimizer.lr=5", "param_groups=head_faster")
    (loss,) = [line for line in diverged if line.startswith("the training loss did not fall: ")]
    first, last = (float(word) for word in re.findall(r"([\d.e+]+) (?:at|on)", loss))
    assert first < 3 < last


def test_accuracy_at_majority_class_level_prints_caution(tmp_path: Path) -> None:
    """6 zeros and 2 ones to train with, 3 zeros and 1 one to look at: guessing 0 gives 75 %."""
    labels = np.array([0, 0, 0, 1] * 3)
    noise = np.random.default_rng(0).integers(0, 255, (12, 8, 8), np.uint8)
    np.savez(tmp_path / "rare.npz", x=noise, y=labels)
    told = cautions(
        tmp_path, "data=arrays", "data.path=rare.npz", "data.val=0.34", "data.batch_size=4",
        "model=mlp", "epochs=1", "optimizer.lr=0",
    )  # fmt: skip
    assert told[-1].endswith(
        "is no better than always guessing the commonest class, 0 (75.0 % of the validation "
        "samples)"
    )


def test_learning_run_prints_no_caution(tmp_path: Path) -> None:
    assert cautions(tmp_path, "model=mlp", "data.train_size=100", "epochs=4") == []


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["optimizer.lr=0"], "no weight changed in 6 steps at a learning rate of 0 (all); the"),
        (["optimizer.lr=1e-12", "scheduler=cosine"], "no weight changed in 6 steps at a learning"),
        (
            ["param_groups=layer_decay", "param_groups.decay=1e-5"],
            "hardly any weight (at most 0.0 %) of 3 parameter groups changed in 6 steps at a "
            "learning rate of 5e-22 (0_convolution1_1), 5e-17 (1_convolution1_2), 5e-12",
        ),
        (["freeze=all_but_head"], None),
        (["optimizer=adamw", "optimizer.lr=1e-6"], None),
        (["freeze=gradual", "freeze.stages=[{epoch: 1, names: ['*1_*']}]"], None),
    ],
)
def test_unchanged_trainable_weights_are_reported(
    small: Small, overrides: list[str], wanted: str | None
) -> None:
    found = [v.warning for v in audited(small(*overrides)) if v.warning]
    assert len(found) == (wanted is not None)
    assert wanted is None or found[0].startswith(wanted)
