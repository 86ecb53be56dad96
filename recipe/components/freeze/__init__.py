"""Freeze: called once as `freeze(model, **settings)`; sets requires_grad on the parameters.

May return a timetable, `{epoch: [parameter names]}`: what is to be trained again from the
start of that epoch (the first epoch is 0). Two settings are the engine's own. `cache` says whether
what is frozen at the beginning of the model is computed once (`auto`, the default, where that gives
the same bits; see recipe.training.frozen_cache) or each time (`off`). `batchnorm` says what BatchNorm layers do
whose own parameters (or, without any, those of the layer before) are frozen:

- `eval`: nothing of the layer learns; it normalises by its running statistics.
- `train`: it normalises by the batch and its running statistics go on moving, which is
  what requires_grad=False alone does; weight and bias stay.
- `affine_only`: only weight and bias learn; it normalises by its running statistics, which stay.
"""

from __future__ import annotations

from collections.abc import Iterator

from recipe.components.contract import PlannedRun, check


@check("freeze")
def check_freeze(planned: PlannedRun) -> Iterator[str]:
    """The rules of every freeze."""
    frozen, choice = planned.freeze_schedule, planned.choice("freeze")
    late = [epoch for epoch in frozen.unfreeze_schedule if epoch >= planned.spec.epochs]
    if late:
        yield (
            f"{choice} unfreezes after {min(late)} epochs, but the run has "
            f"{planned.spec.epochs}; use more epochs or earlier stages"
        )
    if frozen.policy != "eval" and not frozen.frozen_batchnorms:
        yield (
            f"freeze.batchnorm is {frozen.policy}, but {choice} freezes no BatchNorm layer, so it "
            "would be ignored; use eval, or freeze a normalisation layer as well"
        )
