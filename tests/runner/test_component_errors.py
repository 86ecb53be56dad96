"""What a component raises, whatever it is, ends in one line that names its group and option.

The components are a user's own, and every class of torch that a `_target_` may name.
"""

from __future__ import annotations

import inspect
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import commands
import pytest
import torch
from torch import Tensor, nn, optim

from recipe.config.groups import GROUPS
from recipe.config.spec import RunSpec
from recipe.errors import RecipeError, SpecError
from recipe.formatting import format_value
from recipe.training import build, loop

Small = Callable[..., RunSpec]

TRUST = f"trust=[{__name__}]"

QUICK = (*commands.QUICK, "tracking=none")


class OddError(Exception):
    """None of those that a component is expected to raise."""


def odd(*arguments: Any, **settings: Any) -> Any:
    raise OddError("odd\nnumbers")


def empty(*arguments: Any, **settings: Any) -> Any:
    raise AssertionError


def exits(*arguments: Any, **settings: Any) -> Any:
    raise SystemExit(0)


class SilentError(Exception):
    def __str__(self) -> str:
        raise KeyError("x")


def silent(*arguments: Any, **settings: Any) -> Any:
    raise SilentError


class SilentValueError(SilentError, ValueError):
    """One that components are expected to raise."""


def silent_value(*arguments: Any, **settings: Any) -> Any:
    raise SilentValueError


def endless(*arguments: Any, **settings: Any) -> Any:
    return endless(*arguments, **settings)


def changed(base: RunSpec, group: str, settings: dict[str, Any]) -> RunSpec:
    """With other settings of a group."""
    field: dict[str, Any] = {group: settings}
    return replace(base, **field)


BEFORE_A_RUN = sorted({*GROUPS} - {"device", "distributed", "tracking", "clip", "sharpness"})
"""Groups whose component is called before anything is recorded."""


@pytest.mark.parametrize(
    ("component", "what"),
    [
        (odd, "OddError: odd"), (empty, "AssertionError"), (exits, "SystemExit: 0"),
        (silent, "SilentError"),
    ],
    ids=["odd", "empty", "exits", "silent"],
)  # fmt: skip
def test_component_exception_is_reported_with_group_and_option(
    small: Small, component: Any, what: str
) -> None:
    base = small(TRUST)
    for group in BEFORE_A_RUN:
        settings = {
            key: value
            for key, value in getattr(base, group).items()
            if key in ("batch_size", "eval_batch_size", "classes", "per", "takes")
        }
        target = f"{__name__}.{component.__name__}"
        spec = changed(base, group, {**settings, "_target_": target})
        with pytest.raises(SpecError) as refused:
            build.build(spec)
        choice = f"{group}._target_={target}"
        told = f"{choice}: raised {what}; RECIPE_DEBUG=1 prints the traceback"
        assert refused.value.problems == [told]


def test_error_without_message_is_named_by_type(small: Small) -> None:
    spec = small(TRUST).with_settings(loss={"_target_": f"{__name__}.silent_value"})
    with pytest.raises(SpecError) as refused:
        build.build(spec)
    told = f"loss._target_={__name__}.silent_value: raised SilentValueError"
    assert refused.value.problems == [told]


MINE = """
import torch
from torch import nn


def clip(params):
    return {}["norm"]


def imported(params):
    return params


class Sized(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, inputs):
        assert inputs.shape[-1] == 224, "Wrong image height"
        return self.layer(inputs.flatten(1))


class Constant(Sized):
    @torch.no_grad()
    def forward(self, inputs):
        return self.layer(inputs.flatten(1)[:, :64])


class Tired(Sized):
    calls = 0

    def forward(self, inputs):
        self.calls += 1
        if self.calls > 4:
            raise KeyError("tired")
        return self.layer(inputs.flatten(1)[:, :64])


def errors(output, target):
    return (output.argmax(1) != target).float().mean()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    targets = {
        "clip/mine": "mine.clip", "clip/broken": "broken.clip", "model/sized": "mine.Sized",
        "model/constant": "mine.Constant", "model/tired": "mine.Tired",
        "loss/errors": "mine.errors",
    }  # fmt: skip
    files = {f"conf/{name}.yaml": f"_target_: {target}\n" for name, target in targets.items()}
    return commands.project(tmp_path, {"mine.py": MINE, "broken.py": "1 / 0\n", **files})


HINT = "RECIPE_DEBUG=1 prints the traceback"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["clip=broken"], f"clip=broken: raised ZeroDivisionError: division by zero; {HINT}"),
        (
            ["model=sized"],
            "model=sized: can't take inputs of shape (1, 8, 8): AssertionError: Wrong image "
            "height; the data's channels and size must be those the model is made for; use "
            f"another data.size or model=mlp or model=resnet ({HINT})",
        ),
        (
            ["model=constant"],
            "model=constant: gives an output that has no gradient in training, so nothing would "
            "be learned; check for torch.no_grad or detach in it",
        ),
        (
            ["loss=errors"],
            "loss=errors: gives no gradient, so nothing would be learned; use another loss",
        ),
    ],
)
def test_broken_component_is_rejected_before_recording(
    project: Path, given: list[str], told: str
) -> None:
    quick = [o for o in QUICK if not (given[0].startswith("model") and o.startswith("model."))]
    refused = commands.rejected(project, *quick, "data.size=8", *given, "trust=[mine,broken]")
    assert refused == [told]


def test_exception_in_a_step_fails_the_run_and_records_the_traceback(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = commands.run(project, *QUICK, "clip=mine", "trust=[mine]")
    told = f"recipe: clip=mine raised KeyError: 'norm' after 0 steps; {HINT}"
    assert (done.status, done.problems) == (1, [told])
    (run,) = commands.run_dirs(project)
    assert 'return {}["norm"]' in (run / "error.txt").read_text(encoding="utf-8")
    monkeypatch.setenv("RECIPE_DEBUG", "1")
    done = commands.run(project, *QUICK, "clip=mine", "trust=[mine]", "again=true")
    assert 'return {}["norm"]' in done.err and done.problems[-1] == told


@pytest.mark.parametrize("verb", ["plan", "find-lr"])
def test_later_model_exceptions_end_plan_and_find_lr_in_one_line(project: Path, verb: str) -> None:
    quick = [override for override in QUICK if not override.startswith("model.")]
    done = commands.run(project, verb, *quick, "data.size=8", "model=tired", "trust=[mine]")
    (problem,) = done.problems
    assert done.status == 1 and problem.startswith("recipe: model=tired raised KeyError: 'tired'")


def test_interrupt_and_closed_output_are_not_component_errors(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*arguments: Any, **settings: Any) -> Any:
        try:
            raise BrokenPipeError
        except BrokenPipeError:
            raise SystemExit(1)  # noqa: B904  # as rich does

    def interrupted(*arguments: Any, **settings: Any) -> Any:
        raise KeyboardInterrupt

    spec = small(TRUST).with_settings(loss={"_target_": f"{__name__}.odd"})
    for component, kind in ((closed, SystemExit), (interrupted, KeyboardInterrupt)):
        component.__module__ = __name__
        monkeypatch.setattr(sys.modules[__name__], "odd", component)
        with pytest.raises(kind):
            build.build(spec)


def test_component_exit_is_reported_in_single_run_and_sweep(tmp_path: Path) -> None:
    files = {
        "mine.py": "def ex(*arguments):\n    raise SystemExit(0)\n",
        "conf/loss/ex.yaml": "_target_: mine.ex\n",
    }
    commands.project(tmp_path, files)
    told = f"loss=ex: raised SystemExit: 0; {HINT}"
    assert commands.rejected(tmp_path, *QUICK, "loss=ex", "trust=[mine]") == [told]
    done = commands.sweep(tmp_path, "-m", *QUICK, "loss=ex,cross_entropy", "trust=[mine]")
    assert done.status == 1 and "REFUSED" in done.out and told in done.out.replace("\n", " ")


@pytest.mark.parametrize("name", ["Sequential", "CTCLoss", "Module"])
def test_unsuitable_loss_class_is_rejected_with_different_option(small: Small, name: str) -> None:
    target = f"torch.nn.{name}"
    (problem,) = ends(small().with_settings(loss={"_target_": target}))
    assert problem.startswith(f"loss._target_={target}: can't take outputs (2, 3) with targets")
    assert problem.endswith("; leave loss._target_ out, or use loss=mse_one_hot")


def test_infinitely_recursive_loss_is_rejected(small: Small) -> None:
    target = f"{__name__}.endless"
    (problem,) = ends(small(TRUST).with_settings(loss={"_target_": target}))
    assert problem.startswith(f"loss._target_={target}: ") and "recursion" in problem


def test_images_too_small_for_the_model_are_rejected_with_a_remedy(tmp_path: Path) -> None:
    quick = [override for override in QUICK if not override.startswith("model.")]
    (told,) = commands.rejected(tmp_path, *quick, "data.size=8")
    assert told.startswith("model=vgg: can't take inputs of shape (1, 8, 8): RuntimeError: Given")
    assert told.endswith(f"; use a larger data.size or model=mlp or model=resnet ({HINT})")


# Every class of torch


def classes(module: Any, kind: type) -> Iterator[str]:
    for name, found in vars(module).items():
        if inspect.isclass(found) and issubclass(found, kind):
            yield f"{module.__name__}.{name}"


def ends(spec: RunSpec) -> list[str]:
    """The problems that a spec is refused with; none if it trains."""
    try:
        run = build.build(spec)
    except SpecError as error:
        assert error.problems and all(len(line.splitlines()) == 1 for line in error.problems)
        return error.problems
    losses = [point.metrics["train/loss"] for point in loop.train(run) if not point.is_epoch_end]
    assert len(losses) == run.total_steps and all(map(math.isfinite, losses))
    return []


def tried(base: RunSpec, group: str, nodes: Mapping[str, Any]) -> dict[str, list[str]]:
    """The problems of each `_target_` with its settings, in a group of the spec."""
    return {
        target: ends(changed(base, group, {"_target_": target, **settings}))
        for target, settings in nodes.items()
    }


@pytest.mark.integration
def test_every_torch_nn_class_is_rejected_as_loss_or_trains(small: Small) -> None:
    names = list(classes(nn, nn.Module))
    assert len(names) >= 126
    node = {"takes": ["indices"]}
    found = tried(small("model=mlp", "model.hidden=[4]"), "loss", dict.fromkeys(names, node))
    trained = {name.rpartition(".")[2] for name, problems in found.items() if not problems}
    assert trained == {"CrossEntropyLoss", "MultiMarginLoss", "NLLLoss", "NLLLoss2d"}
    assert found["torch.nn.Linear"] == [
        "loss.in_features is missing, and loss=cross_entropy needs it; give "
        "+loss.in_features=<value>",
        "loss.out_features is missing, and loss=cross_entropy needs it; give "
        "+loss.out_features=<value>",
    ]


@pytest.mark.integration
def test_every_torch_optimizer_is_rejected_or_trains(small: Small) -> None:
    nodes: dict[str, Any] = {name: {} for name in classes(optim, optim.Optimizer)}
    found = tried(small("model=mlp", "model.hidden=[4]"), "optimizer", nodes)
    refused = {name.rpartition(".")[2] for name, problems in found.items() if problems}
    assert refused == {"LBFGS", "SparseAdam", "Muon", "Optimizer"}
    step = ": a step without a closure, on a dense gradient, raised "
    assert found["torch.optim.LBFGS"][0].startswith(
        f"optimizer._target_=torch.optim.LBFGS{step}TypeError: LBFGS.step() missing"
    )
    assert found["torch.optim.SparseAdam"][0].startswith(
        f"optimizer._target_=torch.optim.SparseAdam{step}RuntimeError: SparseAdam does not"
    )
    assert found["torch.optim.Muon"][0].startswith(
        "optimizer._target_=torch.optim.Muon: Muon only supports 2D"
    )


SCHEDULERS: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 1}, "MultiStepLR": {"milestones": [1]}, "ExponentialLR": {"gamma": 0.9},
    "CosineAnnealingLR": {"T_max": 2}, "CosineAnnealingWarmRestarts": {"T_0": 1},
    "ReduceLROnPlateau": {"monitor": "val/loss"}, "LinearLR": {"total_iters": 1},
    "ConstantLR": {"total_iters": 1}, "LambdaLR": {"lr_lambda": 0.5},
    "MultiplicativeLR": {"lr_lambda": {"_target_": "torch.nn.ReLU"}},
    "SequentialLR": {
        "schedulers": [
            {"_target_": "torch.optim.lr_scheduler.StepLR", "_partial_": True, "step_size": 1}
        ],
        "milestones": [1],
    },
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 6}, "CyclicLR": {"base_lr": 0.1, "max_lr": 0.2},
}  # fmt: skip
"""What torch's schedulers need."""


def test_every_torch_scheduler_is_rejected_or_trains(small: Small) -> None:
    names = list(classes(optim.lr_scheduler, optim.lr_scheduler.LRScheduler))
    nodes = {
        name: {"per": "epoch", **SCHEDULERS.get(name.rpartition(".")[2], {})} for name in names
    }
    found = tried(small("model=mlp", "model.hidden=[4]"), "scheduler", nodes)
    trained = {name.rpartition(".")[2] for name, problems in found.items() if not problems}
    assert trained == {
        "StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR", "PolynomialLR",
        "CosineAnnealingLR", "ReduceLROnPlateau", "CosineAnnealingWarmRestarts",
    }  # fmt: skip
    for name in ("ChainedScheduler", "SequentialLR"):
        (problem,) = found[f"torch.optim.lr_scheduler.{name}"]
        target = f"torch.optim.lr_scheduler.{name}"
        assert problem.startswith(f"scheduler._target_={target}: takes schedulers that were built")
        assert problem.endswith("use scheduler=chained")
    (number,) = found["torch.optim.lr_scheduler.LambdaLR"]
    target = "torch.optim.lr_scheduler.LambdaLR"
    assert number.startswith(
        f"scheduler._target_={target}: raised TypeError: 'float' object is not callable"
    )


def test_torch_class_errors_match_between_option_file_and_command_line(tmp_path: Path) -> None:
    commands.project(
        tmp_path,
        {
            "conf/loss/pool.yaml": "_target_: torch.nn.AvgPool1d\n",
            "conf/optimizer/lbfgs.yaml": "_target_: torch.optim.LBFGS\n",
            "conf/scheduler/lam.yaml": (
                "_target_: torch.optim.lr_scheduler.LambdaLR\nper: epoch\nlr_lambda: 2\n"
            ),
        },
    )
    for given, told in {
        "loss=pool": "loss.kernel_size is missing, and loss=pool needs it",
        "loss._target_=torch.nn.AvgPool1d": "loss.kernel_size is missing, and loss=cross_entropy",
        "optimizer=lbfgs": "optimizer=lbfgs: a step without a closure",
        "optimizer._target_=torch.optim.LBFGS": "optimizer.momentum: optimizer=sgd has no such",
        "scheduler=lam": "scheduler=lam: raised TypeError: 'int' object is not callable",
        "scheduler._target_=torch.optim.lr_scheduler.LambdaLR": "scheduler.lr_lambda is missing",
    }.items():
        done = commands.run(tmp_path, "plan", *QUICK, given)
        assert done.status == 2 and done.err.startswith(f"recipe: {told}"), given


def test_target_other_than_text_is_rejected_in_every_group(small: Small) -> None:
    base = small()
    for group, target in itertools.product(GROUPS, (["torch.nn.ReLU"], {"a": 1}, 3, None)):
        if group in ("device", "tracking"):  # which are read before the parts are built
            continue
        spec = changed(base, group, {**getattr(base, group), "_target_": target})
        with pytest.raises(RecipeError) as refused:
            build.build(spec)
        choice = f"{group}={base.options[group]}"
        told = (
            f"{choice}: _target_ must be the dotted name of a callable, got {format_value(target)}"
        )
        assert refused.value.problems[0].startswith(told)


def test_loss_class_receives_all_its_settings(small: Small) -> None:
    node = {"_target_": "torch.nn.MultiMarginLoss", "takes": ["indices"], "p": 2, "margin": 0.5}
    loss = build.build(small().with_settings(loss=node)).loss
    output, target = torch.tensor([[0.0, 1.0]]), torch.tensor([0])
    assert float(loss(output, target)) == pytest.approx((0.5 + 1.0) ** 2 / 2)
    assert isinstance(loss(output, target), Tensor)
