"""The interface between components and the engine: decorators, and the planned run.

A component declares with decorators what the engine must know about it. Functions about a component
are registered for the component, or for all components of a group by the name of the group::

    @check(norm)
    def check_norm(planned: PlannedRun, *, norm_type: float, **settings: Any) -> Iterator[str]: ...

    @check("scheduler")
    def check_schedule(planned: PlannedRun) -> Iterator[str]: ...

Other decorators mark the component itself: if it isn't called in the usual form of its group
(`needs_model`, `lr_factor`, `needs_total_steps`), or has a property that the engine or the rules of
other components depend on.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from recipe.config.instantiate import Components
from recipe.config.spec import RunSpec

F = TypeVar("F", bound=Callable[..., Any])

LRCurves = dict[str, list[float]]
"""Learning rate of each parameter group by name after 0, 1, ... scheduler steps."""


class MissingComponent(Exception):
    """A component could not be built; the reason has been reported."""


@dataclass(frozen=True)
class PlannedRun:
    """A run before it starts; its attributes are those of a Run that could be built."""

    spec: RunSpec
    components: Components
    parts: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        """Raises MissingComponent, which ends the rule, if the attribute could not be built."""
        if name not in self.parts:
            raise MissingComponent(name)
        return self.parts[name]

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.data.train) // int(self.spec.data["batch_size"]))

    @property
    def scheduler_steps(self) -> int:
        return count_scheduler_steps(self.spec, self.steps_per_epoch)

    def marks(self, marker: Marker, group: str) -> bool:
        """Whether the group's component has this marker."""
        return marker.marks(self._function(group))

    def warmup_setting(self) -> str | None:
        return warmup_setting.find(self._function("scheduler"))

    def _function(self, group: str) -> Callable[..., Any]:
        if group not in self.components:
            raise MissingComponent(group)
        return self.components[group].function

    def choice(self, group: str) -> str:
        return self.spec.format_choice(group)

    def settings(self, group: str) -> Mapping[str, Any]:
        settings: Mapping[str, Any] = getattr(self.spec, group)
        return settings


def count_scheduler_steps(spec: RunSpec, steps_per_epoch: int) -> int:
    """Calls of `scheduler.step()` in the run; the last one follows the last training step."""
    per_epoch = steps_per_epoch if spec.scheduler["per"] == "step" else 1
    return int(spec.epochs * per_epoch)


@runtime_checkable
class Stateful(Protocol):
    """A loss, clip, augmentation or average whose state is part of a checkpoint."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Hook:
    """A decorator that registers a function about a component or, by its name, about a group."""

    def __init__(self, name: str) -> None:
        self._attribute = f"_recipe_{name}"

    def __call__(self, owner: Callable[..., Any] | str) -> Callable[[F], F]:
        target = sys.modules[f"recipe.components.{owner}"] if isinstance(owner, str) else owner

        def register(function: F) -> F:
            setattr(target, self._attribute, function)
            return function

        return register

    def find(self, owner: Callable[..., Any] | str) -> Callable[..., Any] | None:
        """The function registered for a component or a group; None if there is none."""
        if isinstance(owner, str):
            target: object = importlib.import_module(f"recipe.components.{owner}")
        else:
            target = _unwrap_partial(owner)
        function: Callable[..., Any] | None = _own_attribute(target, self._attribute)
        return function


class Marker:
    """A decorator that states a property of a component."""

    def __init__(self, name: str) -> None:
        self._attribute = f"_recipe_{name}"

    def __call__(self, component: F) -> F:
        setattr(component, self._attribute, True)
        return component

    def marks(self, component: Callable[..., Any]) -> bool:
        return _own_attribute(_unwrap_partial(component), self._attribute) is True


class Label:
    """A decorator that attaches a string to a component."""

    def __init__(self, name: str) -> None:
        self._attribute = f"_recipe_{name}"

    def __call__(self, text: str) -> Callable[[F], F]:
        def attach(component: F) -> F:
            setattr(component, self._attribute, text)
            return component

        return attach

    def find(self, component: Callable[..., Any]) -> str | None:
        text: str | None = _own_attribute(_unwrap_partial(component), self._attribute)
        return text


def _own_attribute(owner: object, name: str) -> Any:
    """Not inherited: a subclass has its own rules."""
    return getattr(owner, "__dict__", {}).get(name)


def _unwrap_partial(component: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(component, functools.partial):
        component = component.func
    return component


check = Hook("check")
"""`function(planned, **settings)` yields a line for each conflict with other settings: the dotted
key, the rule, the value, the way out. A ValueError is reported as a conflict, too. The function of
a group is called without settings."""

caution = Hook("caution")
"""`function(planned, **settings)` yields cautions, which the plan prints; the run trains."""

describe = Hook("describe")
"""`function(planned, **settings)` returns a description of a scheduler for the plan."""

audit = Hook("audit")
"""`function(params, **settings)` of a clip (`function(params, model, **settings)` if it needs the
model) or `function(targets, indices, **settings)` of a sampler yields problems of the result, which
end the run."""

no_effect = Hook("no_effect")
"""`function(**settings)` returns the reason why a loss has no effect, or None."""

pretrained_weights = Hook("pretrained_weights")
"""`function(weights, **settings)` returns the weights with that name in a model's library, as
`recipe.components.model.library_weights.LibraryWeights`, or None. Settings may be `auto`."""

adapt_weights = Hook("adapt_weights")
"""`function(weights, **settings)` returns the weights of a file, renamed to those of the model."""

needs_model = Marker("needs_model")
"""A clip that is called once as `clip(model, **settings)`; the result is called in each step."""

lr_factor = Marker("lr_factor")
"""A scheduler that is a function of the progress of the run, `factor(progress, **settings)`."""

needs_total_steps = Marker("needs_total_steps")
"""A scheduler with the keyword argument `total`, the number of scheduler steps in the run."""

preserves_inputs = Marker("preserves_inputs")
"""An augmentation that returns its batch unchanged, or an evaluation that returns
`model(inputs)`. The frozen layers then get the inputs of the data, so that their outputs can be
cached."""

has_complete_digest = Marker("has_complete_digest")
"""A data component whose digest covers everything that it returns; else the engine hashes what it
returned."""

warmup_setting = Label("warmup_setting")
"""A scheduler that begins with a warm-up; the string is the setting with its share of the run."""

reweights_classes = Marker("reweights_classes")
"""A loss that gives rare classes more weight."""

supports_sharding = Marker("supports_sharding")
"""A clip, an average or a sharpness component that is correct for sharded weights."""
