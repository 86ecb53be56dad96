"""Rules that tricks state: a run that breaks one is refused before it trains, in whole sentences;
the nearest one that doesn't is trained, and the audit finds every promise kept."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import commands
import pytest
import torch
from audited_runs import trained
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from recipe.components.contract import lr_factor, needs_total_steps
from recipe.components.precision import AutocastAndScaler
from recipe.config import allowlist
from recipe.config.groups import GROUPS
from recipe.config.spec import RunSpec
from recipe.errors import SpecError
from recipe.training import build
from recipe.training.run import Run

Compose = Callable[..., RunSpec]
Build = Callable[..., Run]


# A user's parts


def own_lambdas(optimizer: Optimizer, *, second: float) -> LambdaLR:
    """The first group stays where it is, the second is multiplied by `second` at every move."""
    return LambdaLR(optimizer, [lambda move: 1.0, lambda move: second**move])


@needs_total_steps
def own_one_cycle(optimizer: Optimizer, *, total: int, top: float) -> OneCycleLR:
    return OneCycleLR(optimizer, max_lr=top, total_steps=total + 1)


@lr_factor
def relative_minimum(progress: float, *, min_lr: float) -> float:
    """A setting that is called like torch's, and is a fraction of each group's own."""
    return max(1 - progress, min_lr)


def half_without_scaler(device: torch.device) -> AutocastAndScaler:
    autocast = partial(torch.autocast, device.type, dtype=torch.float16)
    return autocast, GradScaler(device.type, enabled=False)


def half(device: torch.device) -> AutocastAndScaler:
    autocast = partial(torch.autocast, device.type, dtype=torch.float16)
    return autocast, GradScaler(device.type, init_scale=8.0)


class Lazy(GradScaler):
    def unscale_(self, optimizer: Optimizer) -> None:
        pass


def lazy(device: torch.device) -> AutocastAndScaler:
    return nullcontext, Lazy(device.type, init_scale=8.0)


def scaled(device: torch.device) -> AutocastAndScaler:
    return nullcontext, GradScaler(device.type, init_scale=8.0)


def indices_alone(output: Tensor, target: Tensor) -> Tensor:
    return functional.nll_loss(output.log_softmax(1), target)


def squares(output: Tensor, target: Tensor) -> Tensor:
    """Over a square of outputs class indices broadcast, and torch doesn't even warn."""
    return (output - target).square().mean()


class Changing(nn.Module):
    """Gives what it gives in evaluation, and `more` with it in training."""

    def __init__(self, more: bool) -> None:
        super().__init__()
        self.layer, self.more = nn.Linear(256, 3), more

    def forward(self, inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        output: Tensor = self.layer(inputs.flatten(1))
        return (output, inputs) if self.training and self.more else output


def changing(*, more: bool, channels: int) -> nn.Module:
    """`channels` isn't what recipe's own models mean by it."""
    return Changing(more)


GONE = "~model.size ~model.classes ~model.hidden ~model.dropout"
THEIRS = f"model=mlp {GONE} model._target_={__name__}.changing"

SCHEDULE = "scheduler._target_=torch.optim.lr_scheduler."
TWO = "param_groups=head_faster"
"""Two groups: the body learns with 0.05, the head with 0.5."""

COSINE = f"{SCHEDULE}CosineAnnealingLR +scheduler.T_max=2"
ONE_CYCLE = f"{SCHEDULE}OneCycleLR scheduler.per=step +scheduler.total_steps=7"
FALLS = f"scheduler=plateau {SCHEDULE}ReduceLROnPlateau scheduler.patience=0"
"""torch's own class; the settings that it shares with our option come from there."""

BATCH_NORM_AT_1X1 = "model=resnet model.widths=[2,2,2,2,2]"
"""16 pixels are halved four times."""


def stages(*epochs: int) -> str:
    """Freezes one layer for each of the epochs."""
    listed = ", ".join(
        f"{{epoch: {e}, names: [convolution{n}_1]}}" for n, e in enumerate(epochs, 1)
    )
    return f"freeze=gradual 'freeze.stages=[{listed}]'"


def groups(rule: str) -> str:
    return f"param_groups=by_name 'param_groups.rules=[{{{rule}}}]'"


IGNORED = (
    "replaces the learning rate of every parameter group, so those given ({}) would be ignored; "
    "use scheduler=one_cycle, which peaks at each group's learning rate"
)

ABSOLUTE = (
    "an absolute minimum, but the groups' learning rates differ (body 0.05, head 0.5), so their "
    "ratio would be lost; use {}=0, or scheduler=cosine with a minimum relative to each"
)

RATIO = (
    "{} destroys the ratio between the groups: body to head is {} after {}; "
    "multiply each group's own learning rate instead"
)

RULES = {
    # Schedules
    "one max_lr for all groups replaces their learning rates": (
        f"{TWO} {ONE_CYCLE} +scheduler.max_lr=0.5",
        f"scheduler.max_lr {IGNORED.format('body 0.05, head 0.5')}",
        f"{TWO} {ONE_CYCLE} +scheduler.max_lr=[0.05,0.5]",
    ),
    "max_lr replaces the learning rate of a single group, too": (
        f"{ONE_CYCLE} +scheduler.max_lr=0.1",
        f"scheduler.max_lr {IGNORED.format('all 0.05')}",
        f"{ONE_CYCLE} +scheduler.max_lr=0.05",
    ),
    "a user's part that hides its max_lr is found by what it makes": (
        f"scheduler._target_={__name__}.own_one_cycle +scheduler.top=0.1 scheduler.per=step",
        f"scheduler._target_={__name__}.own_one_cycle: its max_lr {IGNORED.format('all 0.05')}",
        f"scheduler._target_={__name__}.own_one_cycle +scheduler.top=0.05 scheduler.per=step",
    ),
    "the base_lr of a cycle is one number for all groups": (
        f"{TWO} {SCHEDULE}CyclicLR +scheduler.max_lr=[0.05,0.5] +scheduler.base_lr=0.01",
        RATIO.format(f"{SCHEDULE}CyclicLR", "0.05 to 0.5, but 0.01 to 0.01", "0 scheduler steps"),
        f"{TWO} {SCHEDULE}CyclicLR +scheduler.max_lr=[0.05,0.5] +scheduler.base_lr=[0.01,0.1]",
    ),
    "eta_min ends all groups at one learning rate": (
        f"{TWO} {COSINE} +scheduler.eta_min=0.001",
        f"scheduler.eta_min is 0.001, {ABSOLUTE.format('eta_min')}",
        f"{TWO} {COSINE}",
    ),
    "min_lr is one minimum for all groups": (
        f"{TWO} {FALLS} +scheduler.min_lr=0.001",
        f"scheduler.min_lr is 0.001, {ABSOLUTE.format('min_lr')}",
        f"{TWO} {FALLS} +scheduler.min_lr=[0.001,0.01]",  # a fiftieth of each
    ),
    "a minimum above a group's learning rate would raise it": (
        f"{TWO} {COSINE} +scheduler.eta_min=0.1",
        "scheduler.eta_min is 0.1, above the learning rate of body (0.05), which would rise to it; "
        "use a smaller one",
        f"{COSINE} +scheduler.eta_min=0.04",  # one group, and below it
    ),
    "a user's min_lr may be relative": (
        f"scheduler._target_={__name__}.relative_minimum +scheduler.min_lr=high",
        "scheduler.min_lr must be a number, got 'high'; give another value",
        f"{TWO} scheduler._target_={__name__}.relative_minimum +scheduler.min_lr=0.1",
    ),
    "a plateau's eps skips small reductions of the group with the smaller rate": (
        # the body is reduced from 1e-6 to 1e-7 and 1e-8; the next reduction would be below eps
        f"{TWO} optimizer.lr=1e-6 {FALLS} epochs=4",
        f"{SCHEDULE}ReduceLROnPlateau destroys the ratio between the groups: body to head is 1e-06 "
        "to 1e-05, but 1e-08 to 1e-08 after 3 reductions; use eps=0",
        f"{TWO} optimizer.lr=1e-6 {FALLS} epochs=4 +scheduler.eps=0",
    ),
    "a user's schedule may not change the ratio between the groups": (
        f"{TWO} scheduler._target_={__name__}.own_lambdas +scheduler.second=0.5",
        RATIO.format(
            f"scheduler._target_={__name__}.own_lambdas",
            "0.05 to 0.5, but 0.05 to 0.25", "1 scheduler step",
        ),
        f"{TWO} scheduler._target_={__name__}.own_lambdas +scheduler.second=1",
    ),
    "layers that are unfrozen after the only peak never get the full learning rate": (
        f"scheduler=one_cycle epochs=10 {stages(1, 3)}",
        "scheduler=one_cycle doesn't go with freeze=gradual, which unfreezes after 3 epochs: the "
        "learning rate has its only peak after 3; unfreeze earlier, or use scheduler=constant, "
        "step or cosine",
        f"scheduler=one_cycle epochs=10 {stages(1, 2)}",
    ),
    "a warm-up ends before the run does": (
        "scheduler=warmup_cosine scheduler.per=epoch scheduler.warmup=0.6",  # of two epochs
        "scheduler.warmup is 0.6, but the run has 2 epochs, so it would end during the "
        "warm-up; use scheduler.per=step, a smaller warmup, or more epochs",
        "scheduler=warmup_cosine scheduler.per=epoch scheduler.warmup=0.5",
    ),
    "the warm-up of a cycle ends before the run does": (
        "scheduler=one_cycle scheduler.pct_start=0.9",  # of six steps, the sixth begins at 5/6
        "scheduler.pct_start is 0.9, but the run has 6 training steps, so it would end during "
        "the warm-up; use scheduler.per=step, a smaller pct_start, or more epochs",
        "scheduler=one_cycle scheduler.pct_start=0.8",
    ),
    "torch's own warm-up ends before the run does": (
        f"{SCHEDULE}LinearLR +scheduler.total_iters=2",
        "scheduler.total_iters is 2, but the run has 2 epochs, so the warm-up "
        "wouldn't end; use fewer, or more epochs",
        f"{SCHEDULE}LinearLR +scheduler.total_iters=1",
    ),
    "torch's default number of steps counts if none is given": (
        f"{SCHEDULE}LinearLR",
        "scheduler._target_=torch.optim.lr_scheduler.LinearLR: its total_iters is 5, but the run "
        "has 2 epochs, so the warm-up wouldn't end; use fewer, or more epochs",
        f"{SCHEDULE}LinearLR epochs=6",
    ),
    "a constant warm-up ends, while a fall may take the whole run": (
        f"{SCHEDULE}ConstantLR +scheduler.total_iters=2",
        "scheduler.total_iters is 2, but the run has 2 epochs, so the warm-up "
        "wouldn't end; use fewer, or more epochs",
        f"{SCHEDULE}LinearLR +scheduler.start_factor=1 +scheduler.end_factor=0.1 "
        "+scheduler.total_iters=2",
    ),
    "a plateau depends on a metric that is recorded": (
        "scheduler=plateau scheduler.monitor=train/loss",
        "scheduler.monitor must be 'val/loss' or 'val/accuracy', got 'train/loss'; use val/loss, "
        "the default (the metric; must fit `mode`)",
        "scheduler=plateau scheduler.monitor=val/loss",
    ),
    "a plateau depends on a metric": (
        f"{SCHEDULE}ReduceLROnPlateau",
        "scheduler.monitor must be val/loss or val/accuracy, got null; give one of "
        "them",
        f"{SCHEDULE}ReduceLROnPlateau +scheduler.monitor=val/loss",
    ),
    "no other schedule depends on one": (
        "scheduler=step +scheduler.monitor=val/loss",
        "scheduler.monitor is val/loss, but scheduler=step depends on no metric, so it would "
        "be ignored; leave it out, or use scheduler=plateau",
        "scheduler=step",
    ),
    "a better accuracy is a larger one": (
        "scheduler=plateau scheduler.monitor=val/accuracy",
        "scheduler.mode must be max for val/accuracy, got min; use scheduler.mode=max",
        "scheduler=plateau scheduler.monitor=val/accuracy scheduler.mode=max",
    ),
    "a better loss is a smaller one": (
        "scheduler=plateau scheduler.mode=max",
        "scheduler.mode must be min for val/loss, got max; use scheduler.mode=min",
        "scheduler=plateau scheduler.mode=min",
    ),
    "a metric is measured once an epoch": (
        "scheduler=plateau scheduler.per=step",
        "scheduler.per must be epoch, as val/loss is measured after every epoch, got step; use "
        "scheduler.per=epoch",
        "scheduler=plateau scheduler.per=epoch",
    ),
    # Freezing and groups
    "agc would do nothing where only the head is trained": (
        "clip=agc freeze=all_but_head",
        "clip=agc doesn't clip the classifier (clip.head=auto), and with freeze=all_but_head "
        "nothing else is trained; use clip=norm, or freeze less",
        "clip=agc freeze=convolutions",
    ),
    "a rule for frozen parameters alone would be ignored": (
        f"freeze=vgg_first2 {groups('match: [convolution1_1, convolution1_2], lr: 0.1')}",
        "param_groups=by_name: the rule 'convolution1_1, convolution1_2' takes only frozen "
        "parameters; drop the rule, or freeze less",
        f"freeze=vgg_first2 {groups('match: [convolution1_1, convolution2_1], lr: 0.1')}",
    ),
    "a BatchNorm policy needs a BatchNorm that is frozen": (
        "freeze=vgg_first2 freeze.batchnorm=train",
        "freeze.batchnorm is train, but freeze=vgg_first2 freezes no BatchNorm layer, so it would "
        "be ignored; use eval, or freeze a normalisation layer as well",
        "freeze=first_layers freeze.batchnorm=train",
    ),
    "what is to thaw thaws within the run": (
        stages(1, 2),
        "freeze=gradual unfreezes after 2 epochs, but the run has 2; use more epochs or earlier "
        "stages",
        stages(1, 1),
    ),
    # Optimizer
    "a momentum of 1 would never stop": (
        "optimizer.momentum=1",
        "optimizer.momentum must be below 1, got 1 for all, with which training diverges; use "
        "0.9",
        "optimizer.momentum=0.99",
    ),
    "nor may a group have one": (
        f"optimizer.lr=0.001 {groups('match: classifier, momentum: 1.5')}",
        "optimizer.momentum must be below 1, got 1.5 for classifier, with which training "
        "diverges; use 0.9",
        f"optimizer.lr=0.001 {groups('match: classifier, momentum: 0.5')}",
    ),
    # Losses and targets
    "mixed targets need a loss that takes them": (
        "augment=mixup loss=mse_one_hot loss.takes=[indices]",
        "augment=mixup gives probabilities, but loss=mse_one_hot takes indices (loss.takes); use "
        "loss=cross_entropy, or augment=none",
        "augment=mixup loss=mse_one_hot",
    ),
    "a loss that says it takes mixed targets is tried with some": (
        f"augment=mixup loss._target_={__name__}.indices_alone",
        f"loss._target_={__name__}.indices_alone: can't take outputs (2, 3) with targets (2, 3): "
        "0D or 1D target tensor expected, multi-target not supported; leave loss._target_ out, or "
        "use loss=mse_one_hot",
        f"augment=flip_crop augment.flip=0 loss._target_={__name__}.indices_alone",
    ),
    "validation gives indices whatever the augmentation gives": (
        "augment=mixup loss._target_=torch.nn.MSELoss loss.takes=[probabilities]",
        "loss._target_=torch.nn.MSELoss takes probabilities alone (loss.takes), but validation, "
        "which isn't augmented, gives indices; use loss=cross_entropy or loss=mse_one_hot",
        "augment=mixup loss._target_=torch.nn.CrossEntropyLoss",
    ),
    "a loss of torch's that would broadcast with a warning is refused": (
        "loss._target_=torch.nn.MSELoss data.classes=2",
        "loss._target_=torch.nn.MSELoss: can't take outputs (3, 2) with targets (3,): they would "
        "broadcast to a wrong loss; leave loss._target_ out, or use loss=mse_one_hot",
        "loss._target_=torch.nn.CrossEntropyLoss data.classes=2 +loss.label_smoothing=0.1",
    ),
    "one that would broadcast without a word is refused": (
        f"loss._target_={__name__}.squares data.classes=2",
        f"loss._target_={__name__}.squares: can't take outputs (3, 2) with targets (3,): The size "
        "of tensor a (2) must match the size of tensor b (3) at non-singleton dimension 1; leave "
        "loss._target_ out, or use loss=mse_one_hot",
        "loss=mse_one_hot data.classes=2",
    ),
    # Precision
    "float16 is for GPUs": (
        "precision=fp16",
        "precision=fp16 needs a GPU, and this run is on the CPU; use precision=bf16",
        "precision=bf16",
    ),
    "a user's float16 needs a scaler": (
        f"precision._target_={__name__}.half_without_scaler",
        f"precision._target_={__name__}.half_without_scaler computes in float16, but its scaler is "
        "disabled, so small gradients would become 0; return an enabled GradScaler, or use "
        "precision=bf16",
        f"precision._target_={__name__}.half",
    ),
    "a scaler gives back the gradients of the loss": (
        f"precision._target_={__name__}.lazy clip=norm",
        f"precision._target_={__name__}.lazy: its scaler's unscale_ doesn't restore the "
        "gradients of the loss, so clip=norm would compare scaled gradients with its limit; use "
        "torch's GradScaler",
        f"precision._target_={__name__}.scaled clip=norm",
    ),
    # Data and model
    "a batch isn't larger than the data": (
        "data.batch_size=21",
        "data.batch_size is 21, but there are 20 training samples; use data.batch_size=20 or "
        "less",
        "data.batch_size=20",
    ),
    "channels are those of the data": (
        "model.channels=3",
        "model.channels is 3, but the data have 1; leave it out, or use model.channels=1",
        "model.channels=1",
    ),
    "the size is that of the data": (
        "model=mlp model.size=17",
        "model.size is 17, but the data have 16; leave it out, or use model.size=16",
        "model=mlp model.size=16",
    ),
    "classes are those of the data": (
        "augment=mixup augment.classes=4",
        "augment.classes is 4, but the data have 3; leave it out, or use augment.classes=3",
        "augment=mixup augment.classes=3",
    ),
    "classes that are stated are those that are found": (
        "data.classes=4 data.n_classes=3",
        "data.classes is 4, but the data have 3: 0, 1, 2; use data.classes=3",
        "data.classes=3 data.n_classes=3",
    ),
    "a last batch of one sample is refused where BatchNorm has nothing else to go by": (
        f"{BATCH_NORM_AT_1X1} data.batch_size=19",
        "data.batch_size is 19, which leaves one sample of 20 for the last batch of an epoch, and "
        "model=resnet can't learn from one: Expected more than 1 value per channel when training, "
        "got input size torch.Size([1, 2, 1, 1]); use another",
        f"{BATCH_NORM_AT_1X1} data.batch_size=18",
    ),
    "so are batches of one": (
        f"{BATCH_NORM_AT_1X1} data.batch_size=1",
        "data.batch_size is 1, which leaves one sample of 20 for the last batch of an epoch, and "
        "model=resnet can't learn from one: Expected more than 1 value per channel when training, "
        "got input size torch.Size([1, 2, 1, 1]); use another",
        "model=resnet model.widths=[2,2,2,2] data.batch_size=1",  # 2 x 2 pixels are left
    ),
    "a model gives in training what it gives in evaluation": (
        f"{THEIRS} +model.more=true model.channels=64",
        f"model._target_={__name__}.changing: gives tuple for 2 inputs in training, but the "
        "data have 3 classes; it must give (2, 3); make it without auxiliary outputs (often "
        "a setting, such as aux_logits=false), or write a model of your own around it that returns "
        "the logits alone",
        f"{THEIRS} +model.more=false model.channels=64",
    ),
}  # fmt: skip
"""Claim: what is refused, what is said, and the nearest case that is trained."""


@pytest.mark.parametrize(("broken", "problem"), [rule[:2] for rule in RULES.values()], ids=RULES)
def test_what_breaks_a_rule_is_refused_in_complete_sentences(
    small: Compose, broken: str, problem: str
) -> None:
    with pytest.raises(SpecError) as caught:
        build.build(small(*shlex.split(broken), f"trust=[{__name__}]"))
    assert caught.value.problems == [problem]


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("kept", [rule[2] for rule in RULES.values()], ids=RULES)
def test_the_nearest_allowed_case_trains_and_passes_its_audit(small: Compose, kept: str) -> None:
    verdicts = trained(small(*shlex.split(kept), f"trust=[{__name__}]"))
    assert [v for v in verdicts.values() if not v.has_passed] == []
    assert len(verdicts) == 14


def test_agc_leaves_the_gradient_of_the_head_bit_identical(built: Build) -> None:
    run = built(
        "clip=agc", "clip.ratio=1e-6", "model.batchnorm=false"
    )  # so strict that everything else is cut
    inputs, targets = next(iter(run.data.train.batches([torch.arange(8)])))
    run.loss(run.model(inputs), targets).backward()
    named = dict(run.model.named_parameters())
    before = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
    run.clip(list(named.values()))
    alone = [n for n, p in named.items() if p.grad is not None and torch.equal(p.grad, before[n])]
    assert alone == ["classifier.weight", "classifier.bias"]
    assert bool(before["classifier.weight"].norm() > 1e-6 * named["classifier.weight"].norm())


def test_conflicts_of_several_tricks_are_reported_at_once(tmp_path: Path) -> None:
    assert commands.rejected(
        tmp_path, *commands.QUICK, "data.batch_size=101", "model.channels=3", "augment=mixup",
        "loss=mse_one_hot", "loss.takes=[indices]", "freeze=all_but_head", "optimizer.momentum=1",
        "scheduler=plateau", "scheduler.mode=max", "scheduler.per=step", "clip=agc",
        "precision=fp16",
    ) == [
        "precision=fp16 needs a GPU, and this run is on the CPU; use precision=bf16",
        "data.batch_size is 101, but there are 100 training samples; use data.batch_size=100 or "
        "less",
        "model.channels is 3, but the data have 1; leave it out, or use model.channels=1",
        "augment=mixup gives probabilities, but loss=mse_one_hot takes indices (loss.takes); use "
        "loss=cross_entropy, or augment=none",
        "optimizer.momentum must be below 1, got 1 for all, with which training diverges; use "
        "0.9",
        "scheduler.per must be epoch, as val/loss is measured after every epoch, got step; use "
        "scheduler.per=epoch",
        "scheduler.mode must be min for val/loss, got max; use scheduler.mode=min",
        "clip=agc doesn't clip the classifier (clip.head=auto), and with freeze=all_but_head "
        "nothing else is trained; use clip=norm, or freeze less",
    ]  # fmt: skip


def test_torch_class_in_user_option_file_is_checked_by_rules(tmp_path: Path) -> None:
    class_of_torchs = "_target_: torch.optim.lr_scheduler.CosineAnnealingLR\n"
    option = f"# Cosine.\n{class_of_torchs}T_max: 2\neta_min: 0.001\nper: epoch\n"
    commands.project(tmp_path, {"conf/scheduler/theirs.yaml": option})
    quick = (*commands.QUICK, "tracking=none", "scheduler=theirs")
    assert commands.rejected(tmp_path, *quick, "param_groups=head_faster") == [
        f"scheduler.eta_min is 0.001, {ABSOLUTE.format('eta_min')}"
    ]
    assert commands.run(tmp_path, *quick).status == 0


@pytest.mark.parametrize(
    ("broken", "problem", "kept"),
    [
        (
            "nonfinite_limit=3",
            "nonfinite_limit has no effect with on_nonfinite=stop, which skips nothing, got 3; use "
            "on_nonfinite=skip, or leave it out",
            "nonfinite_limit=3 on_nonfinite=skip",
        ),
        (
            "clip=none clip.max_norm=2",
            "clip.max_norm=2: clip=none takes no settings; it is a setting of clip=norm",
            "clip=norm clip.max_norm=2",
        ),
    ],
    ids=["a limit without skipping", "a setting of an option that has none"],
)
def test_setting_without_effect_is_rejected(
    tmp_path: Path, broken: str, problem: str, kept: str
) -> None:
    quick = (*commands.QUICK, "tracking=none")
    assert commands.rejected(tmp_path, *quick, *broken.split()) == [problem]
    assert commands.run(tmp_path, *quick, *kept.split()).status == 0


def test_each_target_is_resolved_once_until_the_run_ends(
    small: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved: list[str | None] = []
    plain = allowlist.locate_target

    def counting(target: object, trusted: Sequence[str], group: str | None = None) -> Any:
        resolved.append(group)
        return plain(target, trusted, group)

    monkeypatch.setattr(allowlist, "locate_target", counting)
    trained(small("freeze=first_layers", "freeze.count=1", "clip=norm", "scheduler=cosine"))
    assert sorted(map(str, resolved)) == sorted(GROUPS)


# A user's rules and promises, in their own project

CLIP = """
import torch

def mine(params, *, ceiling: float):
    return torch.nn.utils.get_total_norm([p.grad for p in params])
"""
"""Has a ceiling, and does nothing about it."""

RULE = """
from recipe.components.contract import check

@check(mine)
def check_mine(planned, *, ceiling):
    if ceiling > planned.base_lr["all"]:
        yield f"clip.ceiling must not be above the learning rate, got {ceiling}; lower it"
"""

PROMISE = """
from recipe.components.contract import audit

@audit(mine)
def audit_mine(params, *, ceiling):
    yield f"the ceiling of {ceiling} is for show"
"""

WITH_MODEL = """
from recipe.components.contract import audit, needs_model

@needs_model
def mine(model, *, ceiling: float):
    return lambda params: torch.nn.utils.get_total_norm([p.grad for p in params])

@audit(mine)
def audit_mine(params, model, *, ceiling):
    if {id(p) for p in params} == {id(p) for p in model.parameters()}:
        yield "every parameter of the model is here"
"""

RAISES = """
from recipe.components.contract import check

@check(mine)
def check_mine(planned, *, ceiling):
    raise ValueError(f"{planned.choice('clip')} is out of order")
"""

OPTION = """
# A ceiling for the norm.
_target_: mytricks.mine
ceiling: 0.1  # nothing above it
"""


def project(folder: Path, **modules: str) -> tuple[str, ...]:
    """A project with these modules; what chooses its clip."""
    files = {f"{name}.py": content for name, content in modules.items()}
    commands.project(folder, {**files, "conf/clip/mine.yaml": OPTION.lstrip()})
    return (*commands.QUICK, "epochs=1", "tracking=none", "clip=mine", "trust=[mytricks]")


def test_the_check_of_a_users_trick_is_applied(tmp_path: Path) -> None:
    arguments = project(tmp_path, mytricks=CLIP + RULE)
    assert commands.rejected(tmp_path, *arguments) == [
        "clip.ceiling must not be above the learning rate, got 0.1; lower it"  # which is 0.05
    ]
    assert commands.run(tmp_path, *arguments, "clip.ceiling=0.05").status == 0


def test_a_check_that_raises_is_reported_like_the_others(tmp_path: Path) -> None:
    arguments = project(tmp_path, mytricks=CLIP + RAISES)
    assert commands.rejected(tmp_path, *arguments, "optimizer.momentum=1") == [
        "optimizer.momentum must be below 1, got 1 for all, with which training diverges; use 0.9",
        "clip=mine is out of order",
    ]


def test_a_check_that_finds_nothing_may_return_none(tmp_path: Path) -> None:
    silent = RULE.partition("    if")[0] + "    return None\n"
    assert commands.run(tmp_path, *project(tmp_path, mytricks=CLIP + silent)).status == 0


@pytest.mark.parametrize(
    ("beside", "problem"),
    [
        (CLIP + PROMISE, "the ceiling of 0.1 is for show"),
        ("import torch\n" + WITH_MODEL, "every parameter of the model is here"),
    ],
    ids=["a clip", "a clip made with the model"],
)
def test_a_failed_audit_of_a_users_clip_ends_the_run(
    tmp_path: Path, beside: str, problem: str
) -> None:
    done = commands.run(tmp_path, *project(tmp_path, mytricks=beside))
    assert (done.status, done.problems) == (
        1,
        [
            f"recipe: audit: clip=mine failed its audit: {problem} (batch {batch})"
            for batch in (1, 2)  # of two
        ],
    )
    (run,) = commands.run_dirs(tmp_path)
    assert commands.read_json(run / "run.json")["status"] == "FAILED"
    recorded: dict[str, Any] = {}
    for line in commands.read_lines(run / "metrics.jsonl"):
        recorded |= line["metrics"]
    assert (recorded["audit/clip"], recorded["audit/optimizer"]) == (0.0, 1.0)


def test_a_check_or_audit_that_is_only_imported_is_not_applied(tmp_path: Path) -> None:
    """It is registered for another trick of the same name."""
    arguments = project(
        tmp_path, elsewhere=CLIP + RULE + PROMISE,
        mytricks="from elsewhere import check_mine, audit_mine\n" + CLIP,
    )  # fmt: skip
    done = commands.run(tmp_path, *arguments)
    assert (done.status, done.err) == (0, "")


def test_a_trick_of_an_untrusted_package_is_refused_without_its_checks(tmp_path: Path) -> None:
    loud = RULE.partition("    if")[0] + "    raise SystemExit('asked')\n"
    arguments = project(tmp_path, elsewhere=CLIP + loud, mytricks="from elsewhere import mine\n")
    assert commands.rejected(tmp_path, *arguments) == [
        "clip=mine: _target_ mytricks.mine (defined in elsewhere) is not a component that a spec "
        "may "
        "call; choose an option of recipe, or trust your package"
    ]
