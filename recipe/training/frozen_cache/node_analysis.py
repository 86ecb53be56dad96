"""Observes each node of a graph while it runs on a few samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from recipe.nn import rng, without_dynamo
from recipe.training.frozen_cache.trace import InputOnlyModel

TensorVersions = list[tuple[Tensor, int]]


@dataclass
class NodeObservations:
    values: dict[fx.Node, Any] = field(default_factory=dict)
    random_nodes: set[fx.Node] = field(default_factory=set)
    """Nodes that draw from a global random stream."""
    modified_by: dict[fx.Node, fx.Node] = field(default_factory=dict)
    """The node that later modifies a value in place."""
    stale_reads: list[tuple[fx.Node, fx.Node]] = field(default_factory=list)
    """(value, reader) for values that are read after they were modified in place."""


class _ObservingInterpreter(fx.Interpreter):
    def __init__(self, model: InputOnlyModel, graph: fx.Graph) -> None:
        super().__init__(model, garbage_collect_values=False, graph=graph)
        self.extra_traceback = False
        self.observations = NodeObservations()
        self.tensor_versions: dict[fx.Node, TensorVersions] = {}

    def run_node(self, n: fx.Node) -> Any:
        for given in n.all_input_nodes:
            if _is_modified(self.tensor_versions[given]):
                self.observations.stale_reads.append((given, n))
        before = rng.snapshot_rng()
        value = super().run_node(n)
        if rng.snapshot_rng() != before:
            self.observations.random_nodes.add(n)
        for given in n.all_input_nodes:
            if _is_modified(self.tensor_versions[given]):
                self.observations.modified_by.setdefault(given, n)
        self.tensor_versions[n] = [(tensor, tensor._version) for tensor in iterate_tensors(value)]
        self.observations.values[n] = value
        return value


def observe_nodes(model: InputOnlyModel, graph: fx.Graph, inputs: Tensor) -> NodeObservations:
    """Runs the graph. Views share the version counters of their tensors, so in-place modifications
    that the graph doesn't show are detected."""
    watched = _ObservingInterpreter(model, graph)
    with torch.no_grad():
        watched.run(inputs)
    return watched.observations


class _CountingInterpreter(fx.Interpreter):
    def __init__(self, model: InputOnlyModel, graph: fx.Graph, counter: FlopCounterMode) -> None:
        super().__init__(model, graph=graph)
        self.counter = counter
        self.multiply_adds: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        before = self.counter.get_total_flops()
        value = super().run_node(n)
        self.multiply_adds[n] = (self.counter.get_total_flops() - before) // 2
        return value


def count_multiply_adds(
    model: InputOnlyModel, graph: fx.Graph, inputs: Tensor
) -> dict[fx.Node, int]:
    """By node, for all inputs together."""
    counter = FlopCounterMode(display=False)
    counting = _CountingInterpreter(model, graph, counter)
    with torch.no_grad(), counter:
        if counter.mode is not None:
            without_dynamo.disable_dynamo_for_mode(type(counter.mode))
        counting.run(inputs)
    return counting.multiply_adds


def _is_modified(versions: TensorVersions) -> bool:
    return any(tensor._version != version for tensor, version in versions)


def iterate_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from iterate_tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from iterate_tensors(item)
