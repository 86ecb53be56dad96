"""Parameter groups held against their contract, and the optimizer over the trainable ones."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from recipe.config import instantiate, option_files
from recipe.config.schema import accepted, type_problems
from recipe.config.spec import RunSpec
from recipe.errors import DEBUG_HINT, Problems, print_traceback, raised
from recipe.nn import without_dynamo
from recipe.training.freezing import Frozen

NOT_FOR_THE_LOOP = {
    "differentiable": "it is for training through the optimizer's steps, which isn't done here",
    "capturable": "it is for CUDA graphs, which aren't recorded here",
}
"""Switches of torch's optimizers that are taken when one is made, and fail at the first step."""

OWN_KEYS = ("params", "name", "rule")
"""Keys of a group that are no options of the optimizer."""


def static_problems(
    spec: RunSpec, groups: tuple[str, ...] = option_files.GROUPS
) -> dict[str, list[str]]:
    """As `instantiate.static_problems`, and what the optimizer refuses of its own settings."""
    found = instantiate.static_problems(spec, groups)
    if "optimizer" in groups and "optimizer" not in found:
        problems = Problems()
        with problems.component(spec.choice("optimizer")):
            problems += Grouping(spec, instantiate.part(spec, "optimizer")).settings_problems()
        if problems:
            found["optimizer"] = list(problems)
    return found


class Grouping:
    """Turns what a param_groups part gives into the optimizer's own groups."""

    def __init__(self, spec: RunSpec, optimizer: functools.partial[torch.optim.Optimizer]) -> None:
        self.option = spec.choice("param_groups")
        self.chosen = spec.choice("optimizer")
        self.optimizer_name = spec.options["optimizer"]
        self.make = optimizer
        without_dynamo.methods()

    def groups(self, model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
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
                problems.append(f"{self.option}: group {index} has no name")
            elif label in called:
                problems.append(f"{self.option}: two groups are called {label}; lr/{label} is one")
            called.add(label)
            for parameter in group["params"]:
                if id(parameter) in names:
                    held[names[id(parameter)]].append(label)
                else:
                    problems.append(
                        f"{self.option}: the group {label!r} holds a stranger to the model"
                    )
        problems += [
            f"{self.option}: {name} is in no group" for name, own in held.items() if not own
        ]
        problems += [
            f"{self.option}: {name} is in more than one group: {', '.join(own)}"
            for name, own in held.items()
            if len(own) > 1
        ]
        if wrong := self.settings_problems():
            problems += wrong
            problems.raise_any()  # what a group sets is tried on top of them
        for group in groups:
            where = (
                f"the rule {group['rule']!r}"
                if "rule" in group
                else f"the group {group.get('name')!r}"
            )
            options = {key: value for key, value in group.items() if key not in OWN_KEYS}
            problems += [
                f"{self.option}: {where} sets {key}={options.get(key)}: {message}"
                for key, message in self.refused(options)
            ]
        problems.raise_any()
        return groups

    def settings_problems(self) -> list[str]:
        """What the optimizer won't have of its own settings, one problem each."""
        settings = self.make.keywords
        whole = self._refusal(settings)
        if whole is None:
            return self._step_problems()
        bare = self._refusal({})  # which no setting is the reason of
        alone = [(key, self._refusal({key: value})) for key, value in settings.items()]
        return [
            f"optimizer.{key}: {message}{self._own(key)}"
            for key, message in alone
            if message not in (None, bare)
        ] or [f"{self.chosen}: {whole}"]

    def _step_problems(self) -> list[str]:
        """What keeps the optimizer from a step as the training loop takes one: without a closure,
        on a dense gradient."""
        parameter = nn.Parameter(torch.zeros(1))
        parameter.grad = torch.ones(1)
        try:
            optimizer = self.make([parameter])
            without_dynamo.step(optimizer)
            optimizer.step()
        except Exception as error:
            print_traceback(error)
            return [
                f"{self.chosen}: a step without a closure, on a dense gradient, "
                f"raised {raised(error)}; use another optimizer, such as optimizer=adamw"
            ]
        return []

    def _own(self, key: str) -> str:
        """What the option's file gives to a setting, as a way out; empty if it gives none."""
        option = option_files.options("optimizer").get(self.optimizer_name)
        value = option_files.own_settings(option).get(f"optimizer.{key}") if option else None
        return f"; {self.optimizer_name}'s own is {value}" if value is not None else ""

    def refused(self, options: Mapping[str, Any]) -> list[tuple[str, str]]:
        """(option, why) for what the optimizer won't have on top of its settings."""
        settings = self.make.keywords
        known = self.make([nn.Parameter(torch.zeros(1))]).defaults
        kinds, _ = accepted(self.make.func, "optimizer")
        found = []
        for key, value in options.items():
            if key not in known:
                names = [name for name in kinds if name in known]
                hint = option_files.nearest(str(key), names) or f"; it has {', '.join(names)}"
                found.append((key, f"{self.chosen} has no such option{hint}"))
            elif not isinstance(value, torch.Tensor):
                wrong = type_problems("it", kinds.get(key, Any), value, finite=True)
                found += [(key, problem) for problem in wrong]
        if found:
            return found
        given = dict(options)
        whole = self._refusal({**settings, **given})  # some options only hold together
        if whole is not None:
            alone = [(key, self._refusal({**settings, key: value})) for key, value in given.items()]
            found += [(key, why) for key, why in alone if why] or [(", ".join(given), whole)]
        return found

    def _refusal(self, options: Mapping[str, Any]) -> str | None:
        for key, why in NOT_FOR_THE_LOOP.items():
            if options.get(key):
                return f"{why}; leave {key} out"
        try:
            self.make.func([nn.Parameter(torch.zeros(1))], **options)
        except (ValueError, TypeError, RuntimeError) as error:
            return str(error)
        except Exception as error:
            print_traceback(error)
            return f"raised {raised(error)}; {DEBUG_HINT}"
        return None

    def optimizer(self, groups: list[dict[str, Any]], frozen: Frozen) -> torch.optim.Optimizer:
        """Holds exactly the trainable parameters; a group whose own come later starts out empty.

        Raises SpecError for a rule that takes only parameters that are never trained.
        """
        problems = Problems()
        later = {id(frozen.model.get_parameter(name)) for name in frozen.later}
        filled = []
        for group in groups:
            trained = [parameter for parameter in group["params"] if parameter.requires_grad]
            if trained or any(id(parameter) in later for parameter in group["params"]):
                filled.append({**group, "params": trained})
            elif "rule" in group:
                problems.append(
                    f"{self.option}: the rule {group['rule']!r} takes only frozen parameters; "
                    "drop the rule, or freeze less"
                )
        problems.raise_any()
        made = self.make(filled)
        without_dynamo.step(made)
        return made
