"""From a spec to a Run: every part is built here, in a fixed order.

Random streams -> data -> model -> weights -> freeze and BatchNorm policy -> parameter groups
(trainable parameters only) -> optimizer -> scheduler -> the parts of a training step. If a part
fails, those that do not need it are still built, so that all problems are reported at once.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from recipe import output
from recipe.components import contract
from recipe.components.average import Average
from recipe.components.contract import LRCurves, MissingComponent, Stateful
from recipe.components.data import Data
from recipe.components.data import validation as data_contract
from recipe.components.precision import AutocastAndScaler
from recipe.config.instantiate import Component, Components, instantiate
from recipe.config.spec import RunSpec
from recipe.config.world_size import World
from recipe.errors import Problems, first_line
from recipe.nn import memory_format, rng
from recipe.nn.compile_model import compile_model
from recipe.training import component_checks, freezing, pretrained, sanity_check
from recipe.training import lr_schedule as schedule_module
from recipe.training.collectives import Collectives, MultiProcess, SingleProcess
from recipe.training.freezing import FreezeSchedule
from recipe.training.frozen_cache.frozen_cache import FrozenCache
from recipe.training.lr_schedule import LRSchedule
from recipe.training.nonfinite import NonFiniteGuard
from recipe.training.param_groups import OptimizerBuilder, check_components
from recipe.training.pretrained import InitialWeights
from recipe.training.run import Run, compute_dataset_properties
from recipe.training.step_components import StepComponent, build_clip, build_loss

T = TypeVar("T")

STATEFUL_GROUPS = ("loss", "clip", "augment", "average")
"""Groups whose components may have a `state_dict`."""


class _Part(Generic[T]):
    """A part of a run, built when it is first read; `_part` is the decorator."""

    def __init__(self, group: str, build: Callable[[Any], T]) -> None:
        self.group, self.build = group, build

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, builder: RunBuilder, owner: type) -> T:
        """Raises MissingComponent if the part, or another one of its group, could not be built."""
        if self.group in builder.failed_groups:
            raise MissingComponent(self.name)
        if self.name not in builder.parts:
            builder.parts[self.name] = builder.build_part(self.group, self.build)
        part: T = builder.parts[self.name]
        return part


def _part(group: str) -> Callable[[Callable[[Any], T]], _Part[T]]:
    return lambda build: _Part(group, build)


class RunBuilder:
    """Builds the parts of a run in the order of their definition, under the names of Run's fields.

    A part that cannot be built adds to `problems` and its group to `failed_groups`; the parts that
    read it are not tried.
    """

    def __init__(
        self, spec: RunSpec, components: Components, problems: Problems, failed_groups: set[str]
    ) -> None:
        self.spec, self.components = spec, components
        self.problems, self.failed_groups = problems, failed_groups
        self.parts: dict[str, Any] = {}

    def build_all(self) -> None:
        for name, part in vars(RunBuilder).items():
            if isinstance(part, _Part):
                with suppress(MissingComponent):
                    getattr(self, name)

    def build_part(self, group: str, build: Callable[[RunBuilder], T]) -> T:
        missing = MissingComponent(group)
        with self.problems.collect_component_errors(self.spec.format_choice(group)):
            try:
                return build(self)
            except MissingComponent as error:
                missing = error
            except (RuntimeError, MemoryError, OverflowError) as error:  # such as absurd sizes
                reason = first_line(error) or type(error).__name__
                raise ValueError(f"cannot be built: {reason}; check its settings") from error
        self.failed_groups.add(group)
        raise missing

    def bind(self, group: str) -> functools.partial[Any]:
        return self.components[group].bind()

    def preserves_inputs(self, group: str) -> bool:
        component = self.components.get(group)
        return component is not None and contract.preserves_inputs.marks(component.function)

    @property
    def _collectives_or_single(self) -> Collectives:
        """Those of a single process if the processes could not be set up."""
        return self.parts.get("collectives") or SingleProcess()

    @property
    def _steps_per_epoch(self) -> int:
        return -(-len(self.data.train) // int(self.spec.data["batch_size"]))

    @_part("device")
    def device(self) -> torch.device:
        device: torch.device = self.bind("device")().select()
        return device

    @_part("data")
    def data(self) -> Data:
        return _build_data(self.spec, self.components["data"], self.components.get("model"))

    @_part("data")
    def dataset_properties(self) -> dict[str, Any]:
        return compute_dataset_properties(self.data)

    @_part("distributed")
    def collectives(self) -> Collectives:
        """The processes that share the run; for one process the option is not used."""
        world = World.from_environment()
        if world.size == 1:
            return SingleProcess()
        return MultiProcess(
            world, self.bind("distributed")(), shards_before_read=self.preserves_inputs("augment")
        )

    @_part("sampler")
    def sampler(self) -> Callable[[Tensor, torch.Generator], Tensor]:
        return self.bind("sampler")

    @_part("model")
    def model(self) -> nn.Module:
        properties = self.dataset_properties
        output.set_current_task("building the model")
        with rng.isolate_seeded_rng(self.spec.seed, "weights"):
            model: nn.Module = self.components["model"].bind(properties)()
        # without a device or processes the rest is still checked
        device = self.parts.get("device") or torch.device("cpu")
        ranks = self._collectives_or_single
        channels_last = self.spec.channels_last
        if ranks.is_contiguous_required and channels_last == "auto":
            channels_last = False
        return ranks.prepare_model(memory_format.to_memory_format(model, device, channels_last))

    @_part("model")
    def initial_weights(self) -> InitialWeights | None:
        return pretrained.load_initial_weights(
            self.spec, self.model, self.data, self.components["model"], self.dataset_properties
        )

    @_part("freeze")
    def freeze_schedule(self) -> FreezeSchedule:
        return freezing.apply_freeze(self.spec, self.bind("freeze"), self.model)

    @_part("optimizer")
    def optimizer_builder(self) -> OptimizerBuilder:
        return OptimizerBuilder(self.spec, self.bind("optimizer"))

    @_part("param_groups")
    def param_groups(self) -> list[dict[str, Any]]:
        builder, model = self.optimizer_builder, self.model
        with rng.isolate_seeded_rng(self.spec.seed, "param_groups"):
            groups: list[dict[str, Any]] = self.bind("param_groups")(model)
        return builder.check_groups(model, groups)

    @_part("optimizer")
    def optimizer(self) -> torch.optim.Optimizer:
        return self.optimizer_builder.build_optimizer(self.param_groups, self.freeze_schedule)

    @_part("optimizer")
    def base_lr(self) -> dict[str, float]:
        return schedule_module.get_learning_rates(self.optimizer)

    @_part("warmup")
    def warmup_factors(self) -> list[float]:
        return schedule_module.compute_warmup_factors(
            self.spec, self.components, self._steps_per_epoch
        )

    @_part("scheduler")
    def lr_schedule(self) -> LRSchedule:
        factors = self.parts.get("warmup_factors", [])
        return schedule_module.build_lr_schedule(
            self.spec, self.components, self.optimizer, self._steps_per_epoch, factors
        )

    @_part("scheduler")
    def lr_curves(self) -> LRCurves:
        return schedule_module.compute_lr_curves(
            self.spec, self.components, self.base_lr, self._steps_per_epoch
        )

    @_part("precision")
    def autocast_and_scaler(self) -> AutocastAndScaler:
        result: AutocastAndScaler = self.bind("precision")(self.device)
        return result

    @_part("precision")
    def autocast(self) -> Callable[[], AbstractContextManager[Any]]:
        return self.autocast_and_scaler[0]

    @_part("precision")
    def scaler(self) -> torch.amp.GradScaler:
        return self.autocast_and_scaler[1]

    @_part("data")
    def checked_targets(self) -> bool:
        sanity_check.check_targets(self.data)
        return True

    @_part("loss")
    def loss(self) -> StepComponent[[Tensor, Tensor], Tensor]:
        loss = build_loss(self.components["loss"], self.parts.get("dataset_properties"))
        return StepComponent(loss)

    @_part("sharpness")
    def sharpness(self) -> StepComponent[[list[nn.Parameter], Callable[[], None]], None]:
        return StepComponent(self.bind("sharpness"))

    @_part("clip")
    def clip(self) -> StepComponent[[list[nn.Parameter]], tuple[Tensor, Tensor]]:
        clip = build_clip(self.spec.options["clip"], self.bind("clip"), self.model)
        return StepComponent(self._collectives_or_single.sharded_clip(clip))

    @_part("augment")
    def augment(self) -> StepComponent[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]:
        return StepComponent(self.components["augment"].bind(self.dataset_properties))

    @_part("average")
    def average(self) -> Average:
        average: Average = self.bind("average")(self.freeze_schedule.model)
        return average

    @_part("evaluation")
    def evaluation(self) -> Callable[[nn.Module, Tensor], Tensor]:
        return self.bind("evaluation")

    @_part("stop")
    def stop(self) -> Callable[[list[float]], bool]:
        return self.bind("stop")

    def build_run(self) -> Run:
        """Raises MissingComponent unless all parts could be built."""
        spec = self.spec
        stateful = {name: inspect.unwrap(self.parts[name]) for name in STATEFUL_GROUPS}
        return Run(
            components=self.components,
            seed=spec.seed,
            epochs=spec.epochs,
            device=self.device,
            data=self.data,
            sampler=self.sampler,
            batch_size=spec.data["batch_size"],
            eval_batch_size=spec.data["eval_batch_size"],
            accumulate=spec.accumulate,
            model=self.model,
            initial_weights=self.initial_weights,
            loss=self.loss,
            freeze_schedule=self.freeze_schedule,
            optimizer=self.optimizer,
            base_lr=self.base_lr,
            param_groups=self.param_groups,
            sharpness=self.sharpness,
            lr_schedule=self.lr_schedule,
            lr_curves=self.lr_curves,
            warmup_factors=self.warmup_factors,
            clip=self.clip,
            autocast=self.autocast,
            scaler=self.scaler,
            augment=self.augment,
            average=self.average,
            evaluation=self.evaluation,
            stop=self.stop,
            nonfinite_guard=NonFiniteGuard(spec.on_nonfinite, spec.nonfinite_limit),
            collectives=self.collectives,
            frozen_cache=self._build_frozen_cache(),
            stateful_components={
                name: part for name, part in stateful.items() if isinstance(part, Stateful)
            },
        )

    def _build_frozen_cache(self) -> FrozenCache:
        spec, disabled_reasons = self.spec, {}
        if not self.preserves_inputs("augment"):
            disabled_reasons["train"] = f"augment={spec.options['augment']} changes the inputs"
        if spec.freeze.get("cache") == "off":
            disabled_reasons = dict.fromkeys(("train", "val"), "freeze.cache=off")
        if spec.accumulate > 1:
            disabled_reasons["train"] = f"accumulate={spec.accumulate} computes a batch in parts"
        if not self.preserves_inputs("evaluation"):
            disabled_reasons["val"] = f"evaluation={spec.options['evaluation']} changes the inputs"
        if self.collectives.world_size > 1:
            disabled_reasons = dict.fromkeys(("train", "val"), "several processes share the run")
        return FrozenCache(spec.output_path / "cache", disabled_reasons)


def build(
    spec: RunSpec,
    components: Components | None = None,
    problems: Problems | None = None,
    failed_groups: set[str] | None = None,
) -> Run:
    """The run that a spec describes, ready to train.

    `problems` are those found before, and `failed_groups` the groups that they are about. Raises
    SpecError with all problems.
    """
    components = instantiate(spec) if components is None else components
    problems = Problems() if problems is None else problems
    failed = set(failed_groups or ())
    for group, lines in check_components(spec, components).items():
        problems += lines
        failed.add(group)
    builder = RunBuilder(spec, components, problems, failed)
    builder.build_all()
    planned = contract.PlannedRun(spec, components, builder.parts)
    conflicts = component_checks.find_problems(planned, failed) + _accumulation_problems(spec)
    problems += conflicts
    needed = {"data", "model", "augment", "loss", "precision", "evaluation"}
    if not needed & failed and not conflicts:
        output.set_current_task("computing the first batch")
        problems += sanity_check.check_batch(planned)
    if spec.compile and not problems:
        with problems.collect("compile"):
            compile_model(builder.model, builder.device)
    problems.raise_if_any()
    return builder.build_run()


def _accumulation_problems(spec: RunSpec) -> list[str]:
    size, count = spec.data.get("batch_size"), spec.accumulate
    if isinstance(size, int) and count > size > 0:
        return [f"accumulate is {count}, but a batch has {size} samples; use {size} or less"]
    return []


def _build_data(spec: RunSpec, component: Component, model: Component | None) -> Data:
    output.set_current_task("reading the data")
    read = component.bind(pretrained.resolve_auto_settings(spec, model))
    data = data_contract.check_data(read(rng.make_generator(spec.seed, "split")))
    stated = spec.data["classes"]
    if stated not in ("auto", len(data.classes)):
        raise ValueError(
            f"data.classes is {stated}, but the data have {len(data.classes)}: "
            f"{', '.join(data.classes[:10])}; use data.classes={len(data.classes)}"
        )
    for split, name in ((data.train, "training"), (data.val, "validation")):
        if not len(split):
            raise ValueError(f"data={spec.options['data']}: the {name} part is empty")
    if contract.has_complete_digest.marks(component.function):
        return data
    return replace(data, digest=data_contract.hash_data(data))
