"""Current names for the `_target_` names of earlier versions.

Before version 0.2, the components were in `recipe.<group>`; recorded specs and users' option files
may still contain these names.
"""

from __future__ import annotations

import re
from typing import Any

from recipe.config.groups import GROUPS

EARLIER = re.compile(rf"recipe\.(?={'|'.join(GROUPS)}\b)")

QUOTED = re.compile(r'("_target_": *")([^"]+)')


def current_target(target: str) -> str:
    """Returns `recipe.components.clip.norm.norm` for `recipe.clip.norm.norm`, other names
    unchanged."""
    return EARLIER.sub("recipe.components.", target) if EARLIER.match(target) else target


def update_targets(text: str) -> str:
    """Replaces each quoted `_target_` in a recorded setting by its current name."""
    return QUOTED.sub(lambda match: match[1] + current_target(match[2]), text)


def with_current_targets(node: Any) -> Any:
    """Returns a copy of settings in which each `_target_` has its current name."""
    if isinstance(node, list):
        return [with_current_targets(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: current_target(value)
        if key == "_target_" and isinstance(value, str)
        else with_current_targets(value)
        for key, value in node.items()
    }
