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
from typing import Any

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
from recipe.training.collectives import Collectives, MultiProcess, SingleProcess
from recipe.training.freezing import FreezeSchedule
from recipe.training.frozen_cache.frozen_cache import FrozenCache
from recipe.training.nonfinite import NonFiniteGuard
from recipe.training.param_groups import OptimizerBuilder, static_problems
from recipe.training.run import Run

STATEFUL_GROUPS = ("loss", "clip", "augment", "average")
"""Parts that may remember something from step to step."""


class ComponentBuilder:
    """Makes the parts one by one; one that can't be made leaves a problem and None."""

    def __init__(self, spec: RunSpec, problems: Problems, failed_groups: set[str]) -> None:
        self.spec = spec
        self.problems = problems
        self.failed_groups = failed_groups

    def build_component(
        self, group: str, make: Callable[[], Any], needs: tuple[str, ...] = ()
    ) -> Any:
        if group in self.failed_groups or self.failed_groups.intersection(needs):
            self.failed_groups.add(group)
            return None
        before = len(self.problems)
        with self.problems.collect_component_errors(self.spec.format_choice(group)):
            try:
                return make()
            except (RuntimeError, MemoryError, OverflowError) as error:  # such as absurd sizes
                reason = first_line(error) or type(error).__name__
                raise ValueError(f"can't be made: {reason}; look at its settings") from error
        assert len(self.problems) > before
        self.failed_groups.add(group)
        return None

    def build_components(self) -> dict[str, Any]:
        """What a run is made of, under the names of Run's fields; None where it can't be made."""
        spec, made = self.spec, self.build_component
        device = made("device", lambda: instantiate.instantiate_device(spec).select())
        data = made("data", lambda: _build_data(spec))
        facts = _data_properties(data) if data is not None else None
        ranks = made("distributed", lambda: _build_collectives(spec)) or SingleProcess()
        home = device if device is not None else torch.device("cpu")  # so that the rest is checked
        sampler = made("sampler", lambda: instantiate.bind_component(spec, "sampler"), ("data",))
        model = made("model", lambda: _build_model(spec, facts, home, ranks), ("data",))
        start = made(
            "model", lambda: pretrained.load_initial_weights(spec, model, data, facts), ("model",)
        )
        frozen = made("freeze", lambda: _apply_freeze(spec, model), ("model",))
        optimizer_builder = made(
            "optimizer",
            lambda: OptimizerBuilder(spec, instantiate.bind_component(spec, "optimizer")),
        )
        groups = made(
            "param_groups",
            lambda: optimizer_builder.check_groups(model, _build_param_groups(spec, model)),
            ("model", "optimizer"),
        )
        optimizer = made(
            "optimizer",
            lambda: optimizer_builder.build_optimizer(groups, frozen),
            ("param_groups", "freeze"),
        )
        base_lr = made(
            "optimizer", lambda: schedule_module.get_learning_rates(optimizer), ("optimizer",)
        )
        per_epoch = -(-len(data.train) // spec.data["batch_size"]) if data is not None else 0
        ramp = made(
            "warmup", lambda: schedule_module.compute_warmup_factors(spec, per_epoch), ("data",)
        )
        schedule = made(
            "scheduler",
            lambda: schedule_module.build_lr_schedule(spec, optimizer, per_epoch, ramp or []),
            ("optimizer", "data"),
        )
        rates = made(
            "scheduler",
            lambda: schedule_module.compute_lr_curves(spec, base_lr, per_epoch),
            ("scheduler",),
        )
        precision = made(
            "precision", lambda: instantiate.bind_component(spec, "precision")(device), ("device",)
        )
        made("data", lambda: sanity_check.check_targets(data))
        return {
            "device": device,
            "collectives": ranks,
            "data": data,
            "sampler": sampler,
            "model": model,
            "initial_weights": start,
            "loss": made("loss", lambda: _build_loss(spec, facts)),
            "freeze_schedule": frozen,
            "optimizer": optimizer,
            "base_lr": base_lr or {},
            "param_groups": groups,
            "sharpness": made("sharpness", lambda: instantiate.bind_component(spec, "sharpness")),
            "lr_schedule": schedule,
            "lr_curves": rates,
            "warmup_factors": ramp,
            "clip": made("clip", lambda: _build_clip(spec, model), ("model",)),
            "autocast": precision and precision[0],
            "scaler": precision and precision[1],
            "augment": made(
                "augment", lambda: instantiate.bind_component(spec, "augment", facts), ("data",)
            ),
            "average": made(
                "average", lambda: instantiate.bind_component(spec, "average")(model), ("freeze",)
            ),
            "evaluation": made(
                "evaluation", lambda: instantiate.bind_component(spec, "evaluation")
            ),
            "stop": made("stop", lambda: instantiate.bind_component(spec, "stop")),
        }


def build(
    spec: RunSpec, problems: Problems | None = None, failed_groups: set[str] | None = None
) -> Run:
    """The run a spec describes, ready to train.

    `problems` and `broken` are what is known to be wrong already, and with which groups; parts that
    depend on those are not tried. Raises SpecError with everything that is wrong.
    """
    problems = Problems() if problems is None else problems
    if failed_groups is None:
        static = static_problems(spec)
        problems += [line for lines in static.values() for line in lines]
        failed_groups = set(static)
    builder = ComponentBuilder(spec, problems, failed_groups)
    made = builder.build_components()
    planned = contract.PlannedRun(
        spec, {key: part for key, part in made.items() if part is not None}
    )
    against = rules.find_problems(planned, failed_groups)
    problems += against
    wrong = _accumulation_problems(spec)
    problems += wrong
    needed = {"data", "model", "augment", "loss", "precision", "evaluation"}
    if not needed & failed_groups and not against and not wrong:
        output.set_current_task("computing the first batch")
        problems += sanity_check.check_batch(planned)
    if spec.compile and not problems:
        with problems.collect("compile"):
            compile_model(made["model"], made["device"])
    problems.raise_if_any()
    parts_of_a_step = {name: inspect.unwrap(made[name]) for name in STATEFUL_GROUPS}
    return Run(
        seed=spec.seed,
        epochs=spec.epochs,
        batch_size=spec.data["batch_size"],
        eval_batch_size=spec.data["eval_batch_size"],
        accumulate=spec.accumulate,
        nonfinite_guard=NonFiniteGuard(spec.on_nonfinite, spec.nonfinite_limit),
        frozen_cache=_build_frozen_cache(spec),
        stateful_components={
            n: part for n, part in parts_of_a_step.items() if hasattr(part, "state_dict")
        },
        **made,
    )


def _accumulation_problems(spec: RunSpec) -> list[str]:
    """What keeps a batch from being computed in `accumulate` parts."""
    size, count = spec.data.get("batch_size"), spec.accumulate
    if isinstance(size, int) and count > size > 0:
        return [f"accumulate is {count}, but a batch has {size} samples; use {size} or less"]
    return []


def _build_data(spec: RunSpec) -> Data:
    output.set_current_task("reading the data")
    data = data_contract.check_data(
        instantiate.bind_component(spec, "data", pretrained.resolve_auto_settings(spec))(
            rng.make_generator(spec.seed, "split")
        )
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
    return replace(data, digest=data_contract.hash_data(data))


def _data_properties(data: Data) -> dict[str, Any]:
    counts = data.train.targets.bincount(minlength=len(data.classes)).tolist()
    return {
        "channels": data.channels, "classes": len(data.classes), "size": data.size[0],
        "counts": counts, "mean": list(data.mean), "std": list(data.std),
    }  # fmt: skip


def _build_collectives(spec: RunSpec) -> Collectives:
    """The processes that share the run; of one alone, how they would is nothing to it."""
    world = World.from_environment()
    if world.size == 1:
        return SingleProcess()
    return MultiProcess(
        world,
        instantiate.bind_component(spec, "distributed")(),
        shards_before_read=not _has_augmentation(spec),
    )


def _has_augmentation(spec: RunSpec) -> bool:
    return spec.augment.get("_target_") != "recipe.components.augment.none.none"


def _build_model(
    spec: RunSpec, facts: Mapping[str, Any] | None, device: torch.device, ranks: Collectives
) -> nn.Module:
    output.set_current_task("building the model")
    with rng.isolate_seeded_rng(spec.seed, "weights"):
        model: nn.Module = instantiate.bind_component(spec, "model", facts)()
    wanted = (
        False
        if ranks.is_contiguous_required and spec.channels_last == "auto"
        else spec.channels_last
    )
    return ranks.prepare_model(memory_format.to_memory_format(model, device, wanted))


def _build_loss(
    spec: RunSpec, facts: Mapping[str, Any] | None
) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss; under autocast it is computed in float32, its weights, statistics and sums too."""
    part: functools.partial[Any] = instantiate.bind_component(spec, "loss", facts)
    loss = part() if inspect.isclass(part.func) else part

    def in_float32(output: Tensor, target: Tensor) -> Tensor:
        device = output.device.type
        if not torch.is_autocast_enabled(device):
            return loss(output, target)  # type: ignore[no-any-return]
        with torch.autocast(device, enabled=False):
            return loss(output.float(), target)  # type: ignore[no-any-return]

    return functools.update_wrapper(in_float32, loss, (), ())


def _apply_freeze(spec: RunSpec, model: nn.Module) -> FreezeSchedule:
    with rng.isolate_seeded_rng(spec.seed, "freeze"):
        timetable: dict[int, list[str]] = instantiate.bind_component(spec, "freeze")(model) or {}
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"freeze={spec.options['freeze']} freezes all {len(list(model.parameters()))} "
            "parameters, so there is nothing to train; leave out some, such as the head "
            "(freeze=all_but_head)"
        )
    return FreezeSchedule(model, timetable, spec.freeze.get("batchnorm", "eval"))


def _build_frozen_cache(spec: RunSpec) -> FrozenCache:
    why_not: dict[str, str] = {}
    if _has_augmentation(spec):
        why_not["train"] = f"augment={spec.options['augment']} changes the inputs"
    if spec.freeze.get("cache") == "off":
        why_not = dict.fromkeys(("train", "val"), "freeze.cache=off")
    if spec.accumulate > 1:
        why_not["train"] = f"accumulate={spec.accumulate} computes a batch in parts"
    if spec.evaluation.get("_target_") != "recipe.components.evaluation.plain.plain":
        why_not["val"] = f"evaluation={spec.options['evaluation']} looks at changed inputs"
    if World.from_environment().size > 1:
        why_not = dict.fromkeys(("train", "val"), "several processes share the run")
    return FrozenCache(spec.output_path / "cache", why_not)


def _build_param_groups(spec: RunSpec, model: nn.Module) -> list[dict[str, Any]]:
    with rng.isolate_seeded_rng(spec.seed, "param_groups"):
        groups: list[dict[str, Any]] = instantiate.bind_component(spec, "param_groups")(model)
    return groups


def _build_clip(
    spec: RunSpec, model: nn.Module
) -> Callable[[list[nn.Parameter]], tuple[Tensor, Tensor]]:
    """The clip as a step calls it; one that returns the norm alone is measured before and after."""
    clip = instantiate.bind_component(spec, "clip")
    if contract.needs_model.marks(clip):
        clip = clip(model)
    reports_clipping = False

    def measured(params: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
        nonlocal reports_clipping
        before = None if reports_clipping else _total_grad_norm(params)
        returned = clip(params)
        if isinstance(returned, tuple):
            reports_clipping = True  # from now on it is not measured
            return returned
        if not isinstance(returned, Tensor):
            raise RecipeError(
                f"clip={spec.options['clip']} returned {returned!r}; a clip returns the norm of all "
                "gradients before clipping, a tensor of shape ()"
            )
        if before is None:
            raise RecipeError(
                f"clip={spec.options['clip']} returned a norm alone, but norm and whether a gradient "
                "was changed in an earlier step; return the same in every step"
            )
        return returned, _total_grad_norm(params) != before

    return functools.update_wrapper(measured, clip, (), ())


def _total_grad_norm(params: list[nn.Parameter]) -> Tensor:
    return nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
