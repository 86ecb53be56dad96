"""What each node of a graph does, seen by running it on a few samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from recipe.nn import rng, without_dynamo
from recipe.training.frozen_cache.trace import Whole

Versions = list[tuple[Tensor, int]]


@dataclass
class Observed:
    values: dict[fx.Node, Any] = field(default_factory=dict)
    random: set[fx.Node] = field(default_factory=set)
    """Nodes that drew from a global random stream."""
    changers: dict[fx.Node, fx.Node] = field(default_factory=dict)
    """Of a value that is changed in place after it was made: by which node."""
    stale: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)
    """Values that are read after they were changed in place, and by which node."""


class _Watched(fx.Interpreter):
    def __init__(self, whole: Whole, graph: fx.Graph) -> None:
        super().__init__(whole, garbage_collect_values=False, graph=graph)
        self.extra_traceback = False
        self.seen = Observed()
        self.made: dict[fx.Node, Versions] = {}

    def run_node(self, n: fx.Node) -> Any:
        for given in n.all_input_nodes:
            if _moved(self.made[given]):
                self.seen.stale.append((given, n))
        before = rng.standing()
        value = super().run_node(n)
        if rng.standing() != before:
            self.seen.random.add(n)
        for given in n.all_input_nodes:
            if _moved(self.made[given]):
                self.seen.changers.setdefault(given, n)
        self.made[n] = [(tensor, tensor._version) for tensor in flat(value)]
        self.seen.values[n] = value
        return value


def observe(whole: Whole, graph: fx.Graph, inputs: Tensor) -> Observed:
    """Runs the graph. Views share what tells that a tensor was changed in place, so a change that
    the graph doesn't show is noticed."""
    watched = _Watched(whole, graph)
    with torch.no_grad():
        watched.run(inputs)
    return watched.seen


class _Counting(fx.Interpreter):
    def __init__(self, whole: Whole, graph: fx.Graph, counter: FlopCounterMode) -> None:
        super().__init__(whole, graph=graph)
        self.counter = counter
        self.found: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        before = self.counter.get_total_flops()
        value = super().run_node(n)
        self.found[n] = (self.counter.get_total_flops() - before) // 2
        return value


def multiply_adds(whole: Whole, graph: fx.Graph, inputs: Tensor) -> dict[fx.Node, int]:
    """Of every node, for all inputs together."""
    counter = FlopCounterMode(display=False)
    counting = _Counting(whole, graph, counter)
    with torch.no_grad(), counter:
        if counter.mode is not None:
            without_dynamo.mode(type(counter.mode))
        counting.run(inputs)
    return counting.found


def _moved(versions: Versions) -> bool:
    return any(tensor._version != version for tensor, version in versions)


def flat(value: Any) -> Iterator[Tensor]:
    """The tensors in a value."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from flat(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from flat(item)
