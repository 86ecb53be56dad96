"""Freeze: called once as `freeze(model, **settings)`; sets requires_grad of the parameters.

May return an unfreeze schedule, `{epoch: [parameter names]}`: the parameters that are trained from
the start of that epoch (the first epoch is 0). Two settings are read by the engine. `cache` says
whether the outputs of the leading frozen layers are computed once and reused (`auto`, the default,
if this gives the same bits; see recipe.training.frozen_cache) or in each epoch (`off`). `batchnorm`
is the policy for BatchNorm layers whose own parameters (or, without any, those of the layer before)
are frozen:

- `eval`: the layer doesn't change; it normalises by its running statistics.
- `train`: it normalises by the statistics of the batch and updates its running statistics, as with
  requires_grad=False alone; weight and bias are frozen.
- `affine_only`: weight and bias are trained; it normalises by its running statistics, which don't
  change.
"""

from __future__ import annotations

from collections.abc import Iterator

from recipe.components.contract import PlannedRun, check


@check("freeze")
def check_freeze(planned: PlannedRun) -> Iterator[str]:
    """Layers must be unfrozen during the run, and a BatchNorm policy must have an effect."""
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
