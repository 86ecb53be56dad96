"""What the components of a run and the engine share: the planned run that rules look at."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recipe.config.spec import RunSpec

LRCurves = dict[str, list[float]]
"""Learning rate of each group by name after 0, 1, ... moves of the scheduler."""


class MissingComponent(Exception):
    """Asked for a part that couldn't be made; why is told already."""


@dataclass(frozen=True)
class PlannedRun:
    """The run as it is planned, for a rule to look at."""

    spec: RunSpec
    components: Mapping[str, Any]
    """What could be made, under the names of Run's fields."""

    def __getattr__(self, name: str) -> Any:
        """The made part of that name; raises Unmade, which ends the rule."""
        if name not in self.components:
            raise MissingComponent(name)
        return self.components[name]

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.data.train) // int(self.spec.data["batch_size"]))

    @property
    def scheduler_steps(self) -> int:
        """How often the scheduler is moved in the whole run."""
        return count_scheduler_steps(self.spec, self.steps_per_epoch)

    def choice(self, group: str) -> str:
        return self.spec.format_choice(group)

    def settings(self, group: str) -> Mapping[str, Any]:
        settings: Mapping[str, Any] = getattr(self.spec, group)
        return settings


def find_hook(part: Callable[..., Any], prefix: str) -> Callable[..., Any] | None:
    """The function `<prefix>_<name of the part>` that stands in the part's own module, if any."""
    home = getattr(part, "__module__", "")
    found = getattr(sys.modules.get(home), f"{prefix}_{getattr(part, '__name__', '')}", None)
    return found if getattr(found, "__module__", None) == home else None


def count_scheduler_steps(spec: RunSpec, steps_per_epoch: int) -> int:
    """How often the scheduler is moved in the whole run, the last move after the last step."""
    per_epoch = steps_per_epoch if spec.scheduler["per"] == "step" else 1
    return int(spec.epochs * per_epoch)
