"""Parameter groups held against their contract, and the optimizer over the trainable ones."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from recipe.errors import Problems
from recipe.frozen import Frozen
from recipe.menu import nearest

OWN_KEYS = ("params", "name", "rule")
"""Keys of a group that are no options of the optimizer."""


class Grouping:
    """Turns what a param_groups part gives into the optimizer's own groups."""

    def __init__(
        self, options: Mapping[str, str], optimizer: functools.partial[torch.optim.Optimizer]
    ) -> None:
        self.option = f"param_groups={options['param_groups']}"
        self.optimizer_name = options["optimizer"]
        self.make = optimizer

    def groups(self, model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The groups, checked: every parameter in exactly one, every option the optimizer's.

        Raises SpecError naming group or rule.
        """
        problems = Problems()
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        held: dict[str, list[str]] = {name: [] for name in names.values()}
        for index, group in enumerate(groups):
            if "name" not in group:
                problems.append(f"{self.option}: group {index} has no name")
            for parameter in group["params"]:
                held[names[id(parameter)]].append(str(group.get("name", index)))
        problems += [
            f"{self.option}: {name} is in no group" for name, own in held.items() if not own
        ]
        problems += [
            f"{self.option}: {name} is in more than one group: {', '.join(own)}"
            for name, own in held.items()
            if len(own) > 1
        ]
        problems += self._settings_problems()
        for group in groups:
            where = (
                f"the rule {group['rule']!r}"
                if "rule" in group
                else f"the group {group.get('name')!r}"
            )
            for key, value in group.items():
                if key not in OWN_KEYS and (message := self.option_problem(key, value)):
                    problems.append(f"{self.option}: {where} sets {key}={value}: {message}")
        problems.raise_any()
        return groups

    def _settings_problems(self) -> list[str]:
        found = (
            (key, self.option_problem(key, value)) for key, value in self.make.keywords.items()
        )
        return [f"optimizer.{key}: {message}" for key, message in found if message]

    def option_problem(self, key: str, value: Any) -> str | None:
        """Why the optimizer won't have this option, tried alone; None if it will."""
        dummy = [nn.Parameter(torch.zeros(1))]
        required = {} if key == "lr" else {"lr": 1e-3}
        known = self.make.func([dummy[0]], lr=1e-3).defaults
        if key not in known:
            accepted = [
                name for name in inspect.signature(self.make.func).parameters if name in known
            ]
            hint = nearest(key, accepted) or f"; it has {', '.join(accepted)}"
            return f"optimizer={self.optimizer_name} has no such option{hint}"
        try:
            self.make.func(dummy, **required, **{key: value})
        except (ValueError, TypeError, RuntimeError) as error:
            return str(error)
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
        return self.make(filled)
