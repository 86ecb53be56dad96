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
from recipe.errors import OthersGone, RecipeError
from recipe.nn import rng
from recipe.training import rendezvous

if TYPE_CHECKING:
    from recipe.components.distributed import SharedRun
    from recipe.nn.locate_nonfinite import Found
    from recipe.training.run import Run

T = TypeVar("T")
Clip = Callable[[list[nn.Parameter]], tuple[Tensor, Tensor]]


class How(Protocol):
    """What an option of the group `distributed` makes; see there."""

    before_hooks: bool
    alone: bool
    contiguous: bool

    def prepared(self, model: nn.Module) -> nn.Module: ...

    def joined(self, run: SharedRun) -> None: ...

    def sharded_clip(self, clip: Clip) -> Clip: ...

    def wrapped(self, model: nn.Module) -> nn.Module: ...


class Alone:
    """One process: whatever is asked of all of them, it is the answer."""

    rank, size, first = 0, 1, True
    before_hooks, alone, contiguous = False, True, False

    def prepared(self, model: nn.Module) -> nn.Module:
        return model

    def joined(self, run: Run) -> None:
        pass

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def wrapped(self, model: nn.Module) -> nn.Module:
        return model

    def read(self, batch: Tensor) -> Tensor:
        return batch

    def share(self, batch: Tensor, of: int) -> Tensor:
        return batch

    def shares(self, of: int) -> list[int]:
        return [of]

    def counting(self, of: int) -> int:
        return of

    def weighed(self, loss: Tensor, of: int) -> Tensor:
        return loss

    def mean(self, values: Tensor, of: int) -> Tensor:
        return values

    def total(self, values: Tensor) -> Tensor:
        return values

    def largest(self, value: int) -> int:
        return value

    def everyones(self, value: T) -> list[T]:
        return [value]

    def of_first(self, value: T) -> T:
        return value

    def culprit(self, found: Found, of: int) -> Found:
        return found

    def first_of(self, value: T) -> T:
        return value

    def align(self, model: nn.Module) -> None:
        pass

    def seed_dropout(self, seed: int, epoch: int, step: int = 0) -> None:
        rng.seed_global(seed, "dropout", epoch)


class Several:
    """This one of several processes. What each method tells is the same in all of them, but for
    `read` and `share`; all have to call it."""

    def __init__(self, world: World, how: How, *, early: bool) -> None:
        """`early`: batches are cut before they are read, as nothing mixes their samples."""
        self.rank, self.size = world.rank, world.size
        self.first = world.rank == 0
        self._how, self._early = how, early
        self.before_hooks, self.alone, self.contiguous = how.before_hooks, how.alone, how.contiguous

    def prepared(self, model: nn.Module) -> nn.Module:
        return self._how.prepared(model)

    def joined(self, run: Run) -> None:
        self._how.joined(run)
        run.clip = self._how.sharded_clip(run.clip)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What goes wrong within because another process is gone is OthersGone; or a RecipeError,
        if that one has left word why."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
                raise
            if said := rendezvous.why_gone():
                raise RecipeError(said) from error
            raise OthersGone("another process of the run is gone, so it is stopped") from error

    def wrapped(self, model: nn.Module) -> nn.Module:
        """What a step of an epoch calls."""
        return self._how.wrapped(model)

    def read(self, batch: Tensor) -> Tensor:
        """The samples that this process reads of a batch of indices, shape (n,)."""
        return self.share(batch, len(batch)) if self._early else batch

    def share(self, batch: Tensor, of: int) -> Tensor:
        """This process's rows of a batch of `of` samples; what was cut already stays as it is.

        Never empty: where there are fewer samples than processes, some get the last one as well.
        """
        if len(batch) != of:
            return batch
        start = self._start(of)
        return batch[start : start + self.counting(of)] if start < of else batch[-1:]

    def shares(self, of: int) -> list[int]:
        """How many samples each process calls the model with."""
        return [max(1, self._counting(of, rank)) for rank in range(self.size)]

    def counting(self, of: int) -> int:
        """How many of them this process is to count; 0 where it only takes part."""
        return self._counting(of, self.rank)

    def _counting(self, of: int, rank: int) -> int:
        return of // self.size + (rank < of % self.size)

    def _start(self, of: int) -> int:
        return self.rank * (of // self.size) + min(self.rank, of % self.size)

    def weighed(self, loss: Tensor, of: int) -> Tensor:
        """The mean loss of a share, so that the mean of its gradients over all processes, which
        `wrapped` makes, is the gradient of the whole batch's loss."""
        return loss * (self.counting(of) * self.size / of)

    def mean(self, values: Tensor, of: int) -> Tensor:
        """Of means over a share those over the whole batch; any shape."""
        return self.total(values * (self.counting(of) / of))

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, element by element."""
        summed = values.detach().clone()
        distributed.all_reduce(summed)
        return summed

    def largest(self, value: int) -> int:
        most = torch.tensor(value)
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        return int(most)

    def everyones(self, value: T) -> list[T]:
        """By rank."""
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value)
        return found

    def of_first(self, value: T) -> T:
        """What the first process gives."""
        given = [value]
        distributed.broadcast_object_list(given, 0)
        return given[0]

    def first_of(self, value: T | None) -> T | None:
        """The first that isn't None, by rank."""
        return next((each for each in self.everyones(value) if each is not None), None)

    def culprit(self, found: Found, of: int) -> Found:
        """Of what each process found to be wrong with its share of a batch: the most precise. Rows
        become those of the whole batch."""
        start = min(self._start(of), of - 1)  # of one that only takes part, the last sample's
        mine = replace(found, rows=tuple(start + row for row in found.rows))
        return max(self.everyones(mine), key=lambda each: (bool(each.rows), each.layer is not None))

    @torch.no_grad()
    def align(self, model: nn.Module) -> None:
        """Gives every process the first one's buffers, such as BatchNorm's statistics, which each
        has moved by its own shares."""
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)

    def seed_dropout(self, seed: int, epoch: int, step: int = 0) -> None:
        """Puts the global streams at the start of an epoch: each process draws masks of its own.
        With `step` where one begins that wasn't there from the epoch's start."""
        name = f"dropout/{self.rank}" if self.rank else "dropout"
        rng.seed_global(seed, f"{name}/after {step}" if step else name, epoch)


Ranks = Alone | Several
