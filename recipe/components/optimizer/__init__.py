"""Optimizer: a class, called once as `optimizer(parameter groups, **settings)`.

Any torch.optim.Optimizer that takes parameter groups as its first argument can be used.
"""

from __future__ import annotations

from collections.abc import Iterator

from recipe.components.contract import PlannedRun, caution, check


@check("optimizer")
def check_momentum(planned: PlannedRun) -> Iterator[str]:
    """torch accepts a momentum of 1 or more, with which training diverges."""
    groups: dict[float, list[str]] = {}
    for group in planned.optimizer.param_groups:
        groups.setdefault(group.get("momentum", 0.0), []).append(group["name"])
    for momentum, names in groups.items():
        if momentum >= 1:
            yield (
                f"optimizer.momentum must be below 1, got {momentum} for {', '.join(names)}, with "
                "which training diverges; use 0.9"
            )


@caution("optimizer")
def warn_zero_learning_rate(planned: PlannedRun) -> Iterator[str]:
    """Without a learning rate, no weight changes."""
    if not any(planned.warmup_factors) or not any(
        any(curve) for curve in planned.lr_curves.values()
    ):
        yield "the learning rate is 0 at every step, so no weight will change; raise optimizer.lr"
