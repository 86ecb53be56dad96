"""One group with all parameters."""

from __future__ import annotations

from typing import Any

from torch import nn


def all(model: nn.Module) -> list[dict[str, Any]]:  # the option's name is the function's
    return [{"name": "all", "params": list(model.parameters())}]
