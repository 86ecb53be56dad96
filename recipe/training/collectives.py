"""The processes that share a run: a single one, or several with collective operations.

The batches of a run do not depend on the number of processes; each process takes its shard of the
rows. Means are weighted by rows, so uneven shards give the mean of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, distributed, nn

from recipe.components.distributed import SharedRun
from recipe.config.world_size import World
from recipe.errors import PeerProcessLost, RecipeError
from recipe.nn import rng
from recipe.nn.locate_nonfinite import NonFiniteLocation
from recipe.training import rendezvous
from recipe.training.step_components import Clip

T = TypeVar("T")


class Strategy(Protocol):
    """What an option of the group `distributed` returns; see recipe.components.distributed."""

    has_local_grad_hooks: bool
    has_local_forward: bool
    is_contiguous_required: bool

    def prepare_model(self, model: nn.Module) -> nn.Module: ...

    def before_training(self, run: SharedRun) -> None: ...

    def sharded_clip(self, clip: Clip) -> Clip: ...

    def wrap_model(self, model: nn.Module) -> nn.Module: ...


class SingleProcess:
    """A single process: every collective operation is the identity."""

    rank, world_size, is_main = 0, 1, True
    has_local_grad_hooks, has_local_forward, is_contiguous_required = False, True, False

    def prepare_model(self, model: nn.Module) -> nn.Module:
        return model

    def before_training(self, run: SharedRun) -> None:
        pass

    def sharded_clip(self, clip: Clip) -> Clip:
        return clip

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
    """One of several processes. Every process must call each method; the results are the same in
    all, except those of `indices_to_read` and `shard_batch`."""

    def __init__(self, world: World, strategy: Strategy, *, shards_before_read: bool) -> None:
        """`shards_before_read`: each process reads its shard only, as nothing mixes samples."""
        self.rank, self.world_size = world.rank, world.size
        self.is_main = world.rank == 0
        self._shards_before_read = shards_before_read
        self.has_local_grad_hooks = strategy.has_local_grad_hooks
        self.has_local_forward = strategy.has_local_forward
        self.is_contiguous_required = strategy.is_contiguous_required
        self.prepare_model, self.before_training = strategy.prepare_model, strategy.before_training
        self.sharded_clip, self.wrap_model = strategy.sharded_clip, strategy.wrap_model

    @contextmanager
    def translate_peer_errors(self) -> Iterator[None]:
        """Raises RecipeError for a failed collective operation, with the reason if the other
        process has reported one, else PeerProcessLost."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
                raise
            if reason := rendezvous.failure_reason():
                raise RecipeError(reason) from error
            raise PeerProcessLost("another process of the run is gone, so it is stopped") from error

    def indices_to_read(self, batch: Tensor) -> Tensor:
        """The indices, shape (n,), that this process reads of a batch."""
        return self.shard_batch(batch, len(batch)) if self._shards_before_read else batch

    def shard_batch(self, batch: Tensor, batch_size: int) -> Tensor:
        """This process's rows of a batch of `batch_size` samples; a shard is returned unchanged.

        Never empty: with fewer samples than processes, some get the last sample as well.
        """
        if len(batch) != batch_size:
            return batch
        start = self._shard_offset(batch_size)
        if start >= batch_size:
            return batch[-1:]
        return batch[start : start + self.local_sample_count(batch_size)]

    def shard_sizes(self, batch_size: int) -> list[int]:
        """The number of samples in the shard of each process."""
        return [max(1, self._sample_count(batch_size, rank)) for rank in range(self.world_size)]

    def local_sample_count(self, batch_size: int) -> int:
        """The samples that count in this process; 0 if it only takes part."""
        return self._sample_count(batch_size, self.rank)

    def _sample_count(self, batch_size: int, rank: int) -> int:
        return batch_size // self.world_size + (rank < batch_size % self.world_size)

    def _shard_offset(self, batch_size: int) -> int:
        return self.rank * (batch_size // self.world_size) + min(
            self.rank, batch_size % self.world_size
        )

    def scale_loss(self, loss: Tensor, batch_size: int) -> Tensor:
        """Scales the mean loss of a shard so that the mean of the gradients over all processes is
        the gradient of the batch's mean loss."""
        return loss * (self.local_sample_count(batch_size) * self.world_size / batch_size)

    def all_reduce_mean(self, values: Tensor, batch_size: int) -> Tensor:
        """Means over a batch from means over its shards; any shape."""
        return self.all_reduce_sum(values * (self.local_sample_count(batch_size) / batch_size))

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        summed = values.detach().clone()
        distributed.all_reduce(summed)
        return summed

    def all_reduce_max(self, value: int) -> int:
        most = torch.tensor(value)
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        return int(most)

    def all_gather(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.world_size
        distributed.all_gather_object(found, value)
        return found

    def broadcast(self, value: T) -> T:
        """The value of rank 0."""
        given = [value]
        distributed.broadcast_object_list(given, 0)
        return given[0]

    def first_not_none(self, value: T | None) -> T | None:
        """The value of the first rank that is not None."""
        return next((each for each in self.all_gather(value) if each is not None), None)

    def gather_nonfinite(self, found: NonFiniteLocation, batch_size: int) -> NonFiniteLocation:
        """The most precise location that a process found; rows become those of the batch."""
        start = min(self._shard_offset(batch_size), batch_size - 1)
        mine = replace(found, sample_rows=tuple(start + row for row in found.sample_rows))
        return max(
            self.all_gather(mine), key=lambda each: (bool(each.sample_rows), each.layer is not None)
        )

    @torch.no_grad()
    def sync_buffers(self, model: nn.Module) -> None:
        """Broadcasts the buffers of rank 0, such as BatchNorm's statistics of its own shards."""
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)

    def seed_dropout(self, seed: int, epoch: int, step: int = 0) -> None:
        """Seeds the global streams for an epoch, differently in each process; with `step` for a
        process that joins a resumed run within an epoch."""
        name = f"dropout/{self.rank}" if self.rank else "dropout"
        rng.seed_global_rng(seed, f"{name}/after {step}" if step else name, epoch)


Collectives = SingleProcess | MultiProcess
