"""Weights, gradients and the optimizer's state in parts, one in each process.

Source: torch.distributed.fsdp.fully_shard. A layer's weights are made whole when it is called, and
let go afterwards. The plain model must fit on a device once, without gradients and the optimizer's
state, which are never whole; it is cut after it was looked at, just before the first step.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from recipe.components.contract import PlannedRun, check
from recipe.nn.sharded import gather_full_tensor, shard_like

if TYPE_CHECKING:
    from recipe.components.distributed import SharedRun

Clip = Callable[[list[nn.Parameter]], tuple[Tensor, Tensor]]

SUPPORTED_CLIPS = ("recipe.components.clip.none.none", "recipe.components.clip.norm.norm")
"""Clips that are right for gradients in parts."""


class FSDPStrategy:
    has_local_grad_hooks, has_local_forward, is_contiguous_required = False, False, True

    def __init__(self, per: Literal["children", "model"]) -> None:
        self.per = per

    def prepare_model(self, model: nn.Module) -> nn.Module:
        return model

    def before_training(self, run: SharedRun) -> None:
        """Cuts the model; the optimizer and the groups hold its new parameters, by name."""
        from torch.distributed import get_world_size
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        names = {id(p): name for name, p in run.model.named_parameters()}
        mesh = init_device_mesh(run.device.type, (get_world_size(),))
        for piece in _shardable_modules(run.model) if self.per == "children" else ():
            fully_shard(piece, mesh=mesh)
        fully_shard(run.model, mesh=mesh)
        state = run.optimizer.state
        for group in (*run.optimizer.param_groups, *run.param_groups):
            cut = [run.model.get_parameter(names[id(p)]) for p in group["params"]]
            for before, now in zip(group["params"], cut, strict=True):
                if before in state:  # of a run that goes on from another's
                    state[now] = {
                        key: _shard_value_like(value, now)
                        for key, value in state.pop(before).items()
                    }
            group["params"] = cut
        gc.collect()  # the whole weights

    def sharded_clip(self, clip: Clip) -> Clip:
        return _with_full_norm(clip)

    def wrap_model(self, model: nn.Module) -> nn.Module:
        return model


def _shardable_modules(model: nn.Module) -> Iterator[nn.Module]:
    """The layers and blocks that a model calls itself; a list of them is not called."""
    for child in model.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _shardable_modules(child)
        elif any(True for _ in child.parameters()):
            yield child


def _shard_value_like(value: Any, parameter: nn.Parameter) -> Any:
    return shard_like(value, parameter) if isinstance(value, Tensor) else value


def _with_full_norm(clip: Clip) -> Clip:
    """A clip whose norm is that of the whole gradient, in every process."""

    def clipped(params: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
        norm, bit = clip(params)
        return gather_full_tensor(norm), gather_full_tensor(bit)

    return clipped


def fsdp(*, per: Literal["children", "model"]) -> FSDPStrategy:
    """The whole model is cut as `per` says: the smaller the pieces, the less is whole at a time."""
    return FSDPStrategy(per)


@check(fsdp)
def check_fsdp(planned: PlannedRun, *, per: str) -> Iterator[str]:
    """What would be wrong with weights in parts, or isn't known to be right."""
    if planned.collectives.world_size == 1:
        return
    choice, spec = planned.choice("distributed"), planned.spec
    if spec.clip.get("_target_") not in SUPPORTED_CLIPS:
        yield (
            f"{planned.choice('clip')} would see parts of gradients under {choice}; use clip=norm "
            "or clip=none, or distributed=ddp"
        )
    if spec.average.get("_target_") != "recipe.components.average.none.none":
        yield (
            f"{planned.choice('average')} would average parts of weights under {choice}; use "
            "average=none, or distributed=ddp"
        )
    if spec.sharpness.get("_target_") != "recipe.components.sharpness.none.none":
        yield (
            f"{planned.choice('sharpness')} would measure parts of gradients under {choice}; use "
            "sharpness=none, or distributed=ddp"
        )
    if planned.freeze_schedule.unfreeze_schedule:
        yield (
            f"{planned.choice('freeze')} thaws layers while the run goes on, which torch's "
            f"fully_shard doesn't follow ({choice}); freeze them throughout, or use distributed=ddp"
        )
    if planned.scaler.is_enabled():
        yield (
            f"{planned.choice('precision')} scales its loss, which is not known to be right for "
            f"gradients in parts ({choice}); use precision=bf16, or distributed=ddp"
        )
    names = (len(list(planned.model.named_parameters(remove_duplicate=d))) for d in (True, False))
    if per == "children" and len(set(names)) > 1:
        yield (
            f"distributed.per is children, but {planned.choice('model')} has layers that share "
            "weights; use distributed.per=model"
        )
    if spec.channels_last is True:
        yield (
            f"channels_last is true, but {choice} can't cut weights that lie in that order; use "
            "channels_last=auto or false"
        )
