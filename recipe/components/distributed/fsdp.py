"""Weights, gradients and the optimizer's state sharded over the processes.

Source: torch.distributed.fsdp.fully_shard. A layer's weights are gathered when it is called, and
freed afterwards. The plain model must fit on a device once, without gradients and the optimizer's
state, which are never gathered; it is sharded after all checks, just before the first step.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor, nn
from torch.distributed import get_world_size
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from recipe.components.clip import Clip
from recipe.components.contract import PlannedRun, check, supports_sharding
from recipe.components.distributed import SharedRun
from recipe.nn.sharded import gather_full_tensor, shard_like


class FSDPStrategy:
    has_local_grad_hooks, has_local_forward, is_contiguous_required = False, False, True

    def __init__(self, per: Literal["children", "model"]) -> None:
        self.per = per

    def prepare_model(self, model: nn.Module) -> nn.Module:
        return model

    def before_training(self, run: SharedRun) -> None:
        """Shards the model, and replaces the parameters of the optimizer and the groups."""
        names = {id(p): name for name, p in run.model.named_parameters()}
        mesh = init_device_mesh(run.device.type, (get_world_size(),))
        for piece in _shardable_modules(run.model) if self.per == "children" else ():
            fully_shard(piece, mesh=mesh)
        fully_shard(run.model, mesh=mesh)
        state = run.optimizer.state
        for group in (*run.optimizer.param_groups, *run.param_groups):
            cut = [run.model.get_parameter(names[id(p)]) for p in group["params"]]
            for before, now in zip(group["params"], cut, strict=True):
                if before in state:  # restored from a checkpoint
                    state[now] = {
                        key: _shard_value_like(value, now)
                        for key, value in state.pop(before).items()
                    }
            group["params"] = cut
        gc.collect()  # frees the unsharded weights

    def sharded_clip(self, clip: Clip) -> Clip:
        return _with_full_norm(clip)

    def wrap_model(self, model: nn.Module) -> nn.Module:
        return model


def _shardable_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Yields the layers and blocks that the model calls; module lists are never called."""
    for child in model.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _shardable_modules(child)
        elif any(True for _ in child.parameters()):
            yield child


def _shard_value_like(value: Any, parameter: nn.Parameter) -> Any:
    return shard_like(value, parameter) if isinstance(value, Tensor) else value


def _with_full_norm(clip: Clip) -> Clip:
    """Returns a clip that reports the norm of the full gradient in every process."""

    def clip_sharded(params: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
        norm, is_clipped = clip(params)
        return gather_full_tensor(norm), gather_full_tensor(is_clipped)

    return functools.update_wrapper(clip_sharded, clip, (), ())


def fsdp(*, per: Literal["children", "model"]) -> FSDPStrategy:
    """Shards each child of the model separately, or the `model` at once.

    The smaller the sharded modules, the fewer weights are gathered at a time.
    """
    return FSDPStrategy(per)


@check(fsdp)
def check_fsdp(planned: PlannedRun, *, per: str) -> Iterator[str]:
    """Refuses settings that are wrong, or not tested, with sharded weights."""
    if planned.collectives.world_size == 1:
        return
    choice, spec = planned.choice("distributed"), planned.spec
    if not planned.marks(supports_sharding, "clip"):
        yield (
            f"{planned.choice('clip')} would get parts of gradients with {choice}; use clip=norm "
            "or clip=none, or distributed=ddp"
        )
    if not planned.marks(supports_sharding, "average"):
        yield (
            f"{planned.choice('average')} would average parts of weights with {choice}; use "
            "average=none, or distributed=ddp"
        )
    if not planned.marks(supports_sharding, "sharpness"):
        yield (
            f"{planned.choice('sharpness')} would measure parts of gradients with {choice}; use "
            "sharpness=none, or distributed=ddp"
        )
    if planned.freeze_schedule.unfreeze_schedule:
        yield (
            f"{planned.choice('freeze')} unfreezes layers during the run, which torch's "
            f"fully_shard doesn't support ({choice}); freeze them throughout, or use "
            "distributed=ddp"
        )
    if planned.scaler.is_enabled():
        yield (
            f"{planned.choice('precision')} scales the loss, which isn't tested with sharded "
            f"gradients ({choice}); use precision=bf16, or distributed=ddp"
        )
    names = (len(list(planned.model.named_parameters(remove_duplicate=d))) for d in (True, False))
    if per == "children" and len(set(names)) > 1:
        yield (
            f"distributed.per is children, but {planned.choice('model')} has layers that share "
            "weights; use distributed.per=model"
        )
    if spec.channels_last is True:
        yield (
            f"channels_last is true, but {choice} can't shard weights in that memory format; use "
            "channels_last=auto or false"
        )
