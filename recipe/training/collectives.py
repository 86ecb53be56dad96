"""The processes that share a run, as the loop sees them: one alone, or several that agree.

A batch is that of the whole run, the same in the same order however many share it; each process
takes its rows of it. Means are weighted by rows, so uneven shares give the mean of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor, distributed, nn

from recipe.config.world_size import World
from recipe.errors import PeerProcessLost, RecipeError
from recipe.nn import rng
from recipe.training import rendezvous

if TYPE_CHECKING:
    from recipe.components.distributed import SharedRun
    from recipe.nn.locate_nonfinite import NonFiniteLocation
    from recipe.training.run import Run

T = TypeVar("T")
Clip = Callable[[list[nn.Parameter]], tuple[Tensor, Tensor]]


class Strategy(Protocol):
    """What an option of the group `distributed` makes; see there."""

    has_local_grad_hooks: bool
    has_local_forward: bool
    is_contiguous_required: bool

    def prepare_model(self, model: nn.Module) -> nn.Module: ...

    def before_training(self, run: SharedRun) -> None: ...

    def sharded_clip(self, clip: Clip) -> Clip: ...

    def wrap_model(self, model: nn.Module) -> nn.Module: ...


class SingleProcess:
    """One process: whatever is asked of all of them, it is the answer."""

    rank, world_size, is_main = 0, 1, True
    has_local_grad_hooks, has_local_forward, is_contiguous_required = False, True, False

    def prepare_model(self, model: nn.Module) -> nn.Module:
        return model

    def before_training(self, run: Run) -> None:
        pass

    def translate_peer_errors(self) -> AbstractContextManager[None]:
        return nullcontext()

    def wrap_model(self, model: nn.Module) -> nn.Module:
        return model

    def indices_to_read(self, batch: Tensor) -> Tensor:
        return batch

    def shard_batch(self, batch: Tensor, batch_size: int) -> Tensor:
        return batch

    def shard_sizes(self, batch_size: int) -> list[int]:
        return [batch_size]

    def local_sample_count(self, batch_size: int) -> int:
        return batch_size

    def scale_loss(self, loss: Tensor, batch_size: int) -> Tensor:
        return loss

    def all_reduce_mean(self, values: Tensor, batch_size: int) -> Tensor:
        return values

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        return values

    def all_reduce_max(self, value: int) -> int:
        return value

    def all_gather(self, value: T) -> list[T]:
        return [value]

    def broadcast(self, value: T) -> T:
        return value

    def gather_nonfinite(self, found: NonFiniteLocation, batch_size: int) -> NonFiniteLocation:
        return found

    def first_not_none(self, value: T) -> T:
        return value

    def sync_buffers(self, model: nn.Module) -> None:
        pass

    def seed_dropout(self, seed: int, epoch: int, step: int = 0) -> None:
        rng.seed_global_rng(seed, "dropout", epoch)


class MultiProcess:
    """This one of several processes. What each method tells is the same in all of them, but for
    `read` and `share`; all have to call it."""

    def __init__(self, world: World, strategy: Strategy, *, shards_before_read: bool) -> None:
        """`early`: batches are cut before they are read, as nothing mixes their samples."""
        self.rank, self.world_size = world.rank, world.size
        self.is_main = world.rank == 0
        self._strategy, self._shards_before_read = strategy, shards_before_read
        self.has_local_grad_hooks, self.has_local_forward, self.is_contiguous_required = (
            strategy.has_local_grad_hooks,
            strategy.has_local_forward,
            strategy.is_contiguous_required,
        )

    def prepare_model(self, model: nn.Module) -> nn.Module:
        return self._strategy.prepare_model(model)

    def before_training(self, run: Run) -> None:
        self._strategy.before_training(run)
        run.clip = self._strategy.sharded_clip(run.clip)

    @contextmanager
    def translate_peer_errors(self) -> Iterator[None]:
        """What goes wrong within because another process is gone is OthersGone; or a RecipeError,
        if that one has left word why."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
                raise
            if said := rendezvous.failure_reason():
                raise RecipeError(said) from error
            raise PeerProcessLost("another process of the run is gone, so it is stopped") from error

    def wrap_model(self, model: nn.Module) -> nn.Module:
        """What a step of an epoch calls."""
        return self._strategy.wrap_model(model)

    def indices_to_read(self, batch: Tensor) -> Tensor:
        """The samples that this process reads of a batch of indices, shape (n,)."""
        return self.shard_batch(batch, len(batch)) if self._shards_before_read else batch

    def shard_batch(self, batch: Tensor, batch_size: int) -> Tensor:
        """This process's rows of a batch of `of` samples; what was cut already stays as it is.

        Never empty: where there are fewer samples than processes, some get the last one as well.
        """
        if len(batch) != batch_size:
            return batch
        start = self._shard_offset(batch_size)
        return (
            batch[start : start + self.local_sample_count(batch_size)]
            if start < batch_size
            else batch[-1:]
        )

    def shard_sizes(self, batch_size: int) -> list[int]:
        """How many samples each process calls the model with."""
        return [max(1, self._sample_count(batch_size, rank)) for rank in range(self.world_size)]

    def local_sample_count(self, batch_size: int) -> int:
        """How many of them this process is to count; 0 where it only takes part."""
        return self._sample_count(batch_size, self.rank)

    def _sample_count(self, batch_size: int, rank: int) -> int:
        return batch_size // self.world_size + (rank < batch_size % self.world_size)

    def _shard_offset(self, batch_size: int) -> int:
        return self.rank * (batch_size // self.world_size) + min(
            self.rank, batch_size % self.world_size
        )

    def scale_loss(self, loss: Tensor, batch_size: int) -> Tensor:
        """The mean loss of a share, so that the mean of its gradients over all processes, which
        `wrapped` makes, is the gradient of the whole batch's loss."""
        return loss * (self.local_sample_count(batch_size) * self.world_size / batch_size)

    def all_reduce_mean(self, values: Tensor, batch_size: int) -> Tensor:
        """Of means over a share those over the whole batch; any shape."""
        return self.all_reduce_sum(values * (self.local_sample_count(batch_size) / batch_size))

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, element by element."""
        summed = values.detach().clone()
        distributed.all_reduce(summed)
        return summed

    def all_reduce_max(self, value: int) -> int:
        most = torch.tensor(value)
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        return int(most)

    def all_gather(self, value: T) -> list[T]:
        """By rank."""
        found: list[Any] = [None] * self.world_size
        distributed.all_gather_object(found, value)
        return found

    def broadcast(self, value: T) -> T:
        """What the first process gives."""
        given = [value]
        distributed.broadcast_object_list(given, 0)
        return given[0]

    def first_not_none(self, value: T | None) -> T | None:
        """The first that isn't None, by rank."""
        return next((each for each in self.all_gather(value) if each is not None), None)

    def gather_nonfinite(self, found: NonFiniteLocation, batch_size: int) -> NonFiniteLocation:
        """Of what each process found to be wrong with its share of a batch: the most precise. Rows
        become those of the whole batch."""
        start = min(
            self._shard_offset(batch_size), batch_size - 1
        )  # of one that only takes part, the last sample's
        mine = replace(found, sample_rows=tuple(start + row for row in found.sample_rows))
        return max(
            self.all_gather(mine), key=lambda each: (bool(each.sample_rows), each.layer is not None)
        )

    @torch.no_grad()
    def sync_buffers(self, model: nn.Module) -> None:
        """Gives every process the first one's buffers, such as BatchNorm's statistics, which each
        has moved by its own shares."""
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)

    def seed_dropout(self, seed: int, epoch: int, step: int = 0) -> None:
        """Puts the global streams at the start of an epoch: each process draws masks of its own.
        With `step` where one begins that wasn't there from the epoch's start."""
        name = f"dropout/{self.rank}" if self.rank else "dropout"
        rng.seed_global_rng(seed, f"{name}/after {step}" if step else name, epoch)


Collectives = SingleProcess | MultiProcess
