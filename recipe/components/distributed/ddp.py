"""A replica of the model in every process, with averaged gradients.

Source: torch.nn.parallel.DistributedDataParallel.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from recipe.components.clip import Clip
from recipe.components.contract import PlannedRun, check
from recipe.components.distributed import SharedRun
from recipe.nn import layers


class DDPStrategy:
    has_local_grad_hooks, is_contiguous_required = True, False

    def __init__(self, sync_batchnorm: bool, unused_parameters: bool) -> None:
        self.sync_batchnorm, self.unused_parameters = sync_batchnorm, unused_parameters
        self.has_local_forward = not sync_batchnorm
        self._ddp_model: DistributedDataParallel | None = None
        self._trained_names: list[str] = []

    def prepare_model(self, model: nn.Module) -> nn.Module:
        if not self.sync_batchnorm:
            return model
        made: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return made

    def before_training(self, run: SharedRun) -> None:
        pass

    def sharded_clip(self, clip: Clip) -> Clip:
        return clip

    def wrap_model(self, model: nn.Module) -> nn.Module:
        """Wraps the model again if layers were unfrozen, as torch's wrapper averages only the
        parameters that were trained when it was created. The constructor broadcasts the weights
        and buffers of rank 0."""
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        if self._ddp_model is None or trained != self._trained_names:
            self._ddp_model = None
            gc.collect()  # removes the hooks on the parameters
            self._ddp_model = DistributedDataParallel(
                model, find_unused_parameters=self.unused_parameters
            )
            self._trained_names = trained
        return self._ddp_model


def ddp(*, sync_batchnorm: bool, unused_parameters: bool) -> DDPStrategy:
    """Returns data parallelism by torch's DistributedDataParallel.

    With `sync_batchnorm`, BatchNorm uses the statistics of all processes (torch's SyncBatchNorm),
    so all processes must call the model together. With `unused_parameters`, a step may leave
    trained parameters unused; without it, torch raises an error at the next step.
    """
    return DDPStrategy(sync_batchnorm, unused_parameters)


@check(ddp)
def check_ddp(
    planned: PlannedRun, *, sync_batchnorm: bool, unused_parameters: bool
) -> Iterator[str]:
    """SyncBatchNorm needs GPUs and a model with BatchNorm."""
    if planned.collectives.world_size == 1 or not sync_batchnorm:
        return
    if planned.device.type != "cuda":
        yield (
            "distributed.sync_batchnorm is true, but torch's SyncBatchNorm needs GPUs, and this "
            f"run is on the {planned.device.type.upper()}; use distributed.sync_batchnorm=false, "
            "or a model without BatchNorm (model.batchnorm=false)"
        )
    if not any(isinstance(module, layers.BATCH_NORM_TYPES) for module in planned.model.modules()):
        yield (
            f"distributed.sync_batchnorm is true, but {planned.choice('model')} has no BatchNorm; "
            "leave it out"
        )
