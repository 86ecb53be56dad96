"""spec -> Run: every part is made here, in the one order that is right, and nowhere else.

Random streams -> data -> model -> weights -> freeze and BatchNorm policy -> parameter groups
(trainable parameters only) -> optimizer -> scheduler -> the parts of a step. A part that can't be
made doesn't stop the others, so all problems of a spec are reported at once.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from recipe import output
from recipe.components import contract
from recipe.components.data import Data
from recipe.components.data import validation as data_contract
from recipe.config import instantiate
from recipe.config.spec import RunSpec
from recipe.config.world_size import World
from recipe.errors import Problems, RecipeError, first_line
from recipe.nn import memory_format, rng
from recipe.nn.compile_model import compile_model
from recipe.training import lr_schedule as schedule_module
from recipe.training import pretrained, rules, sanity_check
from recipe.training.collectives import Alone, Ranks, Several
from recipe.training.freezing import Frozen
from recipe.training.frozen_cache.frozen_cache import Prefix
from recipe.training.nonfinite import Guard
from recipe.training.param_groups import Grouping, static_problems
from recipe.training.run import Run

REMEMBERS = ("loss", "clip", "augment", "average")
"""Parts that may remember something from step to step."""


class Builder:
    """Makes the parts one by one; one that can't be made leaves a problem and None."""

    def __init__(self, spec: RunSpec, problems: Problems, broken: set[str]) -> None:
        self.spec = spec
        self.problems = problems
        self.broken = broken

    def make(self, group: str, make: Callable[[], Any], needs: tuple[str, ...] = ()) -> Any:
        if group in self.broken or self.broken.intersection(needs):
            self.broken.add(group)
            return None
        before = len(self.problems)
        with self.problems.component(self.spec.choice(group)):
            try:
                return make()
            except (RuntimeError, MemoryError, OverflowError) as error:  # such as absurd sizes
                reason = first_line(error) or type(error).__name__
                raise ValueError(f"can't be made: {reason}; look at its settings") from error
        assert len(self.problems) > before
        self.broken.add(group)
        return None

    def parts(self) -> dict[str, Any]:
        """What a run is made of, under the names of Run's fields; None where it can't be made."""
        spec, made = self.spec, self.make
        device = made("device", lambda: instantiate.device_part(spec).select())
        data = made("data", lambda: _data(spec))
        facts = _facts(data) if data is not None else None
        ranks = made("distributed", lambda: _ranks(spec)) or Alone()
        home = device if device is not None else torch.device("cpu")  # so that the rest is checked
        sampler = made("sampler", lambda: instantiate.part(spec, "sampler"), ("data",))
        model = made("model", lambda: _model(spec, facts, home, ranks), ("data",))
        start = made("model", lambda: pretrained.start(spec, model, data, facts), ("model",))
        frozen = made("freeze", lambda: _freeze(spec, model), ("model",))
        sorter = made("optimizer", lambda: Grouping(spec, instantiate.part(spec, "optimizer")))
        groups = made(
            "param_groups",
            lambda: sorter.groups(model, _groups(spec, model)),
            ("model", "optimizer"),
        )
        optimizer = made(
            "optimizer", lambda: sorter.optimizer(groups, frozen), ("param_groups", "freeze")
        )
        base_lr = made(
            "optimizer", lambda: schedule_module.learning_rates(optimizer), ("optimizer",)
        )
        per_epoch = -(-len(data.train) // spec.data["batch_size"]) if data is not None else 0
        ramp = made("warmup", lambda: schedule_module.ramp(spec, per_epoch), ("data",))
        schedule = made(
            "scheduler",
            lambda: schedule_module.make(spec, optimizer, per_epoch, ramp or []),
            ("optimizer", "data"),
        )
        rates = made(
            "scheduler", lambda: schedule_module.rates(spec, base_lr, per_epoch), ("scheduler",)
        )
        precision = made(
            "precision", lambda: instantiate.part(spec, "precision")(device), ("device",)
        )
        made("data", lambda: sanity_check.check_targets(data))
        return {
            "device": device,
            "ranks": ranks,
            "data": data,
            "sampler": sampler,
            "model": model,
            "start": start,
            "loss": made("loss", lambda: _loss(spec, facts)),
            "frozen": frozen,
            "optimizer": optimizer,
            "base_lr": base_lr or {},
            "groups": groups,
            "sharpness": made("sharpness", lambda: instantiate.part(spec, "sharpness")),
            "schedule": schedule,
            "rates": rates,
            "ramp": ramp,
            "clip": made("clip", lambda: _clip(spec, model), ("model",)),
            "autocast": precision and precision[0],
            "scaler": precision and precision[1],
            "augment": made("augment", lambda: instantiate.part(spec, "augment", facts), ("data",)),
            "average": made(
                "average", lambda: instantiate.part(spec, "average")(model), ("freeze",)
            ),
            "evaluation": made("evaluation", lambda: instantiate.part(spec, "evaluation")),
            "stop": made("stop", lambda: instantiate.part(spec, "stop")),
        }


def build(spec: RunSpec, problems: Problems | None = None, broken: set[str] | None = None) -> Run:
    """The run a spec describes, ready to train.

    `problems` and `broken` are what is known to be wrong already, and with which groups; parts that
    depend on those are not tried. Raises SpecError with everything that is wrong.
    """
    problems = Problems() if problems is None else problems
    if broken is None:
        static = static_problems(spec)
        problems += [line for lines in static.values() for line in lines]
        broken = set(static)
    builder = Builder(spec, problems, broken)
    made = builder.parts()
    planned = contract.Planned(spec, {key: part for key, part in made.items() if part is not None})
    against = rules.check(planned, broken)
    problems += against
    wrong = _parts_problems(spec)
    problems += wrong
    needed = {"data", "model", "augment", "loss", "precision", "evaluation"}
    if not needed & broken and not against and not wrong:
        output.task("computing the first batch")
        problems += sanity_check.check_batch(planned)
    if spec.compile and not problems:
        with problems.collect("compile"):
            compile_model(made["model"], made["device"])
    problems.raise_any()
    parts_of_a_step = {name: inspect.unwrap(made[name]) for name in REMEMBERS}
    return Run(
        seed=spec.seed,
        epochs=spec.epochs,
        batch_size=spec.data["batch_size"],
        eval_batch_size=spec.data["eval_batch_size"],
        accumulate=spec.accumulate,
        nonfinite=Guard(spec.on_nonfinite, spec.nonfinite_limit),
        prefix=_prefix(spec),
        remembers={n: part for n, part in parts_of_a_step.items() if hasattr(part, "state_dict")},
        **made,
    )


def _parts_problems(spec: RunSpec) -> list[str]:
    """What keeps a batch from being computed in `accumulate` parts."""
    size, count = spec.data.get("batch_size"), spec.accumulate
    if isinstance(size, int) and count > size > 0:
        return [f"accumulate is {count}, but a batch has {size} samples; use {size} or less"]
    return []


def _data(spec: RunSpec) -> Data:
    output.task("reading the data")
    data = data_contract.checked(
        instantiate.part(spec, "data", pretrained.auto(spec))(rng.generator(spec.seed, "split"))
    )
    stated = spec.data["classes"]
    if stated not in ("auto", len(data.classes)):
        raise ValueError(
            f"data.classes is {stated}, but the data have {len(data.classes)}: "
            f"{', '.join(data.classes[:10])}; use data.classes={len(data.classes)}"
        )
    for split, name in ((data.train, "training"), (data.val, "validation")):
        if not len(split):
            raise ValueError(f"data={spec.options['data']}: the {name} part is empty")
    if spec.data["_target_"].startswith("recipe."):
        return data  # its digest is of everything it returns
    return replace(data, digest=data_contract.content_digest(data))


def _facts(data: Data) -> dict[str, Any]:
    counts = data.train.targets.bincount(minlength=len(data.classes)).tolist()
    return {
        "channels": data.channels, "classes": len(data.classes), "size": data.size[0],
        "counts": counts, "mean": list(data.mean), "std": list(data.std),
    }  # fmt: skip


def _ranks(spec: RunSpec) -> Ranks:
    """The processes that share the run; of one alone, how they would is nothing to it."""
    world = World.here()
    if world.size == 1:
        return Alone()
    return Several(world, instantiate.part(spec, "distributed")(), early=not _augments(spec))


def _augments(spec: RunSpec) -> bool:
    return spec.augment.get("_target_") != "recipe.components.augment.none.none"


def _model(
    spec: RunSpec, facts: Mapping[str, Any] | None, device: torch.device, ranks: Ranks
) -> nn.Module:
    output.task("building the model")
    with rng.seeded(spec.seed, "weights"):
        model: nn.Module = instantiate.part(spec, "model", facts)()
    wanted = False if ranks.contiguous and spec.channels_last == "auto" else spec.channels_last
    return ranks.prepared(memory_format.arrange(model, device, wanted))


def _loss(spec: RunSpec, facts: Mapping[str, Any] | None) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss; under autocast it is computed in float32, its weights, statistics and sums too."""
    part: functools.partial[Any] = instantiate.part(spec, "loss", facts)
    loss = part() if inspect.isclass(part.func) else part

    def in_float32(output: Tensor, target: Tensor) -> Tensor:
        device = output.device.type
        if not torch.is_autocast_enabled(device):
            return loss(output, target)  # type: ignore[no-any-return]
        with torch.autocast(device, enabled=False):
            return loss(output.float(), target)  # type: ignore[no-any-return]

    return functools.update_wrapper(in_float32, loss, (), ())


def _freeze(spec: RunSpec, model: nn.Module) -> Frozen:
    with rng.seeded(spec.seed, "freeze"):
        timetable: dict[int, list[str]] = instantiate.part(spec, "freeze")(model) or {}
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"freeze={spec.options['freeze']} freezes all {len(list(model.parameters()))} "
            "parameters, so there is nothing to train; leave out some, such as the head "
            "(freeze=all_but_head)"
        )
    return Frozen(model, timetable, spec.freeze.get("batchnorm", "eval"))


def _prefix(spec: RunSpec) -> Prefix:
    why_not: dict[str, str] = {}
    if _augments(spec):
        why_not["train"] = f"augment={spec.options['augment']} changes the inputs"
    if spec.freeze.get("cache") == "off":
        why_not = dict.fromkeys(("train", "val"), "freeze.cache=off")
    if spec.accumulate > 1:
        why_not["train"] = f"accumulate={spec.accumulate} computes a batch in parts"
    if spec.evaluation.get("_target_") != "recipe.components.evaluation.plain.plain":
        why_not["val"] = f"evaluation={spec.options['evaluation']} looks at changed inputs"
    if World.here().size > 1:
        why_not = dict.fromkeys(("train", "val"), "several processes share the run")
    return Prefix(spec.output_path / "cache", why_not)


def _groups(spec: RunSpec, model: nn.Module) -> list[dict[str, Any]]:
    with rng.seeded(spec.seed, "param_groups"):
        groups: list[dict[str, Any]] = instantiate.part(spec, "param_groups")(model)
    return groups


def _clip(spec: RunSpec, model: nn.Module) -> Callable[[list[nn.Parameter]], tuple[Tensor, Tensor]]:
    """The clip; one that returns the norm alone is measured, to see whether it bit."""
    clip = instantiate.part(spec, "clip")
    if next(iter(inspect.signature(clip).parameters)) == "model":
        clip = clip(model)
    called = getattr(clip, "func", clip)
    called = called if inspect.isroutine(called) else type(called).__call__
    try:
        returned = get_type_hints(called).get("return")
    except (NameError, TypeError):  # an annotation that only a type checker can read
        returned = None
    if get_origin(returned) is tuple:
        return clip  # type: ignore[no-any-return]

    def measured(params: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
        before = _gradient_norm(params)
        norm = clip(params)
        if not isinstance(norm, Tensor):
            raise RecipeError(
                f"clip={spec.options['clip']} returned {norm!r}; a clip returns the norm of all "
                "gradients before clipping, a tensor of shape ()"
            )
        return norm, _gradient_norm(params) != before

    return functools.update_wrapper(measured, clip, (), ())


def _gradient_norm(params: list[nn.Parameter]) -> Tensor:
    return nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
