"""Parameter groups held against their contract, and the optimizer over the trainable ones."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from recipe.config import option_files
from recipe.config.instantiate import Components, instantiate
from recipe.config.schema import find_type_problems, get_accepted_settings
from recipe.config.spec import RunSpec
from recipe.errors import DEBUG_HINT, Problems, describe_exception, print_debug_traceback
from recipe.nn import without_dynamo
from recipe.training.freezing import FreezeSchedule

UNSUPPORTED_FLAGS = {
    "differentiable": "it is for training through the optimizer's steps, which isn't done here",
    "capturable": "it is for CUDA graphs, which aren't recorded here",
}
"""Switches of torch's optimizers that are taken when one is made, and fail at the first step."""

NON_OPTIMIZER_KEYS = ("params", "name", "rule")
"""Keys of a group that are no options of the optimizer."""


def static_problems(spec: RunSpec) -> dict[str, list[str]]:
    """By group what is wrong with a spec that shows without building the run."""
    return check_components(spec, instantiate(spec))


def check_components(spec: RunSpec, components: Components) -> dict[str, list[str]]:
    """The problems of the components, and what the optimizer refuses of its settings."""
    found = dict(components.problems)
    if "optimizer" in components:
        problems = Problems()
        with problems.collect_component_errors(spec.format_choice("optimizer")):
            optimizer = components["optimizer"].bind()
            problems += OptimizerBuilder(spec, optimizer).settings_problems()
        if problems:
            found["optimizer"] = list(problems)
    return found


class OptimizerBuilder:
    """Turns what a param_groups part gives into the optimizer's own groups."""

    def __init__(self, spec: RunSpec, optimizer: functools.partial[torch.optim.Optimizer]) -> None:
        self.param_groups_choice = spec.format_choice("param_groups")
        self.optimizer_choice = spec.format_choice("optimizer")
        self.optimizer_name = spec.options["optimizer"]
        self.optimizer_factory = optimizer
        without_dynamo.disable_dynamo_for_optimizers()

    def check_groups(self, model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The groups, checked: every parameter in exactly one, every option the optimizer's.

        Raises SpecError naming group or rule.
        """
        problems = Problems()
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        held: dict[str, list[str]] = {name: [] for name in names.values()}
        called: set[str] = set()
        for index, group in enumerate(groups):
            label = str(group.get("name", index))
            if "name" not in group:
                problems.append(f"{self.param_groups_choice}: group {index} has no name")
            elif label in called:
                problems.append(
                    f"{self.param_groups_choice}: two groups are called {label}; lr/{label} is one"
                )
            called.add(label)
            for parameter in group["params"]:
                if id(parameter) in names:
                    held[names[id(parameter)]].append(label)
                else:
                    problems.append(
                        f"{self.param_groups_choice}: the group {label!r} holds a stranger to the model"
                    )
        problems += [
            f"{self.param_groups_choice}: {name} is in no group"
            for name, own in held.items()
            if not own
        ]
        problems += [
            f"{self.param_groups_choice}: {name} is in more than one group: {', '.join(own)}"
            for name, own in held.items()
            if len(own) > 1
        ]
        if wrong := self.settings_problems():
            problems += wrong
            problems.raise_if_any()  # what a group sets is tried on top of them
        for group in groups:
            where = (
                f"the rule {group['rule']!r}"
                if "rule" in group
                else f"the group {group.get('name')!r}"
            )
            options = {key: value for key, value in group.items() if key not in NON_OPTIMIZER_KEYS}
            problems += [
                f"{self.param_groups_choice}: {where} sets {key}={options.get(key)}: {message}"
                for key, message in self.option_problems(options)
            ]
        problems.raise_if_any()
        return groups

    def settings_problems(self) -> list[str]:
        """What the optimizer won't have of its own settings, one problem each."""
        settings = self.optimizer_factory.keywords
        whole = self._constructor_error(settings)
        if whole is None:
            return self._step_problems()
        bare = self._constructor_error({})  # which no setting is the reason of
        alone = [(key, self._constructor_error({key: value})) for key, value in settings.items()]
        return [
            f"optimizer.{key}: {message}{self._suggest_default(key)}"
            for key, message in alone
            if message not in (None, bare)
        ] or [f"{self.optimizer_choice}: {whole}"]

    def _step_problems(self) -> list[str]:
        """What keeps the optimizer from a step as the training loop takes one: without a closure,
        on a dense gradient."""
        parameter = nn.Parameter(torch.zeros(1))
        parameter.grad = torch.ones(1)
        try:
            optimizer = self.optimizer_factory([parameter])
            without_dynamo.replace_optimizer_step(optimizer)
            optimizer.step()
        except Exception as error:
            print_debug_traceback(error)
            return [
                f"{self.optimizer_choice}: a step without a closure, on a dense gradient, "
                f"raised {describe_exception(error)}; use another optimizer, such as optimizer=adamw"
            ]
        return []

    def _suggest_default(self, key: str) -> str:
        """What the option's file gives to a setting, as a way out; empty if it gives none."""
        option = option_files.find_options("optimizer").get(self.optimizer_name)
        value = option_files.read_own_settings(option).get(f"optimizer.{key}") if option else None
        return f"; {self.optimizer_name}'s own is {value}" if value is not None else ""

    def option_problems(self, options: Mapping[str, Any]) -> list[tuple[str, str]]:
        """(option, why) for what the optimizer won't have on top of its settings."""
        settings = self.optimizer_factory.keywords
        known = self.optimizer_factory([nn.Parameter(torch.zeros(1))]).defaults
        kinds, _ = get_accepted_settings(self.optimizer_factory.func, "optimizer")
        found = []
        for key, value in options.items():
            if key not in known:
                names = [name for name in kinds if name in known]
                hint = (
                    option_files.suggest_nearest(str(key), names) or f"; it has {', '.join(names)}"
                )
                found.append((key, f"{self.optimizer_choice} has no such option{hint}"))
            elif not isinstance(value, torch.Tensor):
                wrong = find_type_problems("it", kinds.get(key, Any), value, finite=True)
                found += [(key, problem) for problem in wrong]
        if found:
            return found
        given = dict(options)
        whole = self._constructor_error({**settings, **given})  # some options only hold together
        if whole is not None:
            alone = [
                (key, self._constructor_error({**settings, key: value}))
                for key, value in given.items()
            ]
            found += [(key, why) for key, why in alone if why] or [(", ".join(given), whole)]
        return found

    def _constructor_error(self, options: Mapping[str, Any]) -> str | None:
        for key, why in UNSUPPORTED_FLAGS.items():
            if options.get(key):
                return f"{why}; leave {key} out"
        try:
            self.optimizer_factory.func([nn.Parameter(torch.zeros(1))], **options)
        except (ValueError, TypeError, RuntimeError) as error:
            return str(error)
        except Exception as error:
            print_debug_traceback(error)
            return f"raised {describe_exception(error)}; {DEBUG_HINT}"
        return None

    def build_optimizer(
        self, groups: list[dict[str, Any]], frozen: FreezeSchedule
    ) -> torch.optim.Optimizer:
        """Holds exactly the trainable parameters; a group whose own come later starts out empty.

        Raises SpecError for a rule that takes only parameters that are never trained.
        """
        problems = Problems()
        later = {id(frozen.model.get_parameter(name)) for name in frozen.scheduled_names}
        filled = []
        for group in groups:
            trained = [parameter for parameter in group["params"] if parameter.requires_grad]
            if trained or any(id(parameter) in later for parameter in group["params"]):
                filled.append({**group, "params": trained})
            elif "rule" in group:
                problems.append(
                    f"{self.param_groups_choice}: the rule {group['rule']!r} takes only frozen parameters; "
                    "drop the rule, or freeze less"
                )
        problems.raise_if_any()
        made = self.optimizer_factory(filled)
        without_dynamo.replace_optimizer_step(made)
        return made
