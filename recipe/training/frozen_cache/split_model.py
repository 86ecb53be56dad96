"""Splits a model into the prefix, whose outputs never change, and the tail.

The tail calls the modules and reads the tensors of the model itself, so code that trains, averages,
saves or hooks the model works without changes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from recipe.training.frozen_cache import NotCacheable
from recipe.training.frozen_cache.node_analysis import (
    NodeObservations,
    count_multiply_adds,
    iterate_tensors,
    observe_nodes,
)
from recipe.training.frozen_cache.tensor_layout import (
    PROBE_BATCH_SIZES,
    LinearSize,
    NotCacheableValue,
    RowLayout,
    evaluate_size,
    infer_size,
)
from recipe.training.frozen_cache.trace import (
    InputOnlyModel,
    check_unchanged,
    has_hooks,
    named_tensors,
    restore_attributes,
    trace_model,
)

MIN_MULTIPLY_ADDS_PER_BYTE = 8
"""Multiply-adds that a cached byte must save. On a CPU, an epoch took 1.03 of the time with 2 to 7
per byte (the first 3x3 layer only), and 0.8 with 170 (two layers and pooling)."""

SHAPE_QUERIES = {
    "getattr": ("shape", "ndim", "dtype", "device", "is_cuda", "itemsize"),
    "call_method": ("size", "dim", "ndimension", "numel", "nelement", "element_size"),
}
"""Queries of a tensor that don't depend on its values."""

TailReasons = dict[fx.Node, str]
"""Nodes that can't be in the prefix, with the reason; empty if they depend on another one."""


@dataclass(frozen=True)
class ModelSplit:
    wrapper: InputOnlyModel
    prefix_graph: fx.Graph
    """From the inputs to the cached values, and to the sizes."""
    layouts: tuple[RowLayout, ...]
    """Of the cached values."""
    size_expressions: tuple[Any, ...]
    """Sizes as functions of the batch size; see `infer_size`."""
    prefix_function: Callable[[Tensor], tuple[tuple[Tensor, ...], tuple[Any, ...]]]
    run_tail: Callable[..., Tensor]
    """Called with the number of samples and their cached values."""
    prefix_tensors: frozenset[str]
    """Names of the tensors that the prefix reads."""
    last_layer: str
    """The last layer with weights in the prefix."""
    multiply_add_share: float
    """The prefix's share of the model's multiply-adds."""

    @property
    def bytes_per_sample(self) -> int:
        return sum(layout.row_bytes for layout in self.layouts)

    def run_prefix(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """The values to cache for a batch. Raises NotCacheable if they have unexpected shapes."""
        kept, sizes = self.prefix_function(inputs)
        count = len(inputs)
        fit = all(
            value.shape == layout.batch_shape(count) and value.dtype == layout.dtype
            for value, layout in zip(kept, self.layouts, strict=True)
        )
        if not fit or tuple(sizes) != evaluate_size(self.size_expressions, count):
            raise NotCacheable("the shapes within the model depend on what is in a batch")
        return kept


def split_model(
    model: nn.Module, inputs: Tensor, trained_names: set[str], modified_names: set[str]
) -> ModelSplit:
    """Splits the model in its current modes, given max(PROBE_BATCH_SIZES) inputs.

    `trained_names` are parameters that are trained, `modified_names` tensors that a forward pass
    modifies. Raises NotCacheable. May change buffers.
    """
    wrapper = InputOnlyModel(model)
    graph = trace_model(wrapper)
    with restore_attributes(model) as changed:
        seen = [observe_nodes(wrapper, graph, inputs[:count]) for count in PROBE_BATCH_SIZES]
        multiply_adds = count_multiply_adds(wrapper, graph, inputs[: PROBE_BATCH_SIZES[0]])
    check_unchanged(changed)
    late = _find_tail_nodes(graph, wrapper, seen, trained_names, modified_names)
    kept, sizes = _find_cut_values(graph, seen, late)
    cut = _GraphCut(graph, late, kept, sizes)
    saved = sum(multiply_adds[node] for node in cut.prefix_nodes)
    bytes_per_sample = sum(layout.row_bytes for layout in kept.values())
    if saved == 0 or saved // PROBE_BATCH_SIZES[0] < MIN_MULTIPLY_ADDS_PER_BYTE * bytes_per_sample:
        first = next(filter(None, late.values()))
        raise NotCacheable(f"{'too little' if saved else 'nothing'} to save before {first}")
    prefix_graph = cut.build_prefix_graph()
    return ModelSplit(
        wrapper,
        prefix_graph,
        tuple(kept.values()),
        tuple(sizes.values()),
        prefix_function=_compile_graph(wrapper, prefix_graph),
        run_tail=_compile_graph(wrapper, cut.build_tail_graph()),
        prefix_tensors=cut.prefix_tensors(wrapper),
        last_layer=cut.last_layer(wrapper),
        multiply_add_share=saved / sum(multiply_adds.values()),
    )


def find_modified_tensors(model: nn.Module, inputs: Tensor) -> set[str]:
    """Names of the tensors that a forward pass in the current modes modifies."""
    before = named_tensors(model)
    kept = {name: (value.detach().clone(), value._version) for name, value in before.items()}
    with torch.no_grad(), restore_attributes(model) as changed:
        model(inputs)
        after = named_tensors(model)
    check_unchanged(changed)
    return {
        name
        for name, value in before.items()
        if after.get(name) is not value
        or value._version != kept[name][1]
        or not torch.equal(value.nan_to_num(), kept[name][0].nan_to_num())
    }


def _find_tail_nodes(
    graph: fx.Graph,
    wrapper: InputOnlyModel,
    seen: list[NodeObservations],
    trained: set[str],
    moving: set[str],
) -> TailReasons:
    late: TailReasons = {}
    shapes = _find_shape_nodes(graph)
    for node in graph.nodes:
        reason = _tail_reason(node, wrapper, seen, trained, moving, shapes)
        if reason or any(given in late for given in node.all_input_nodes):
            late[node] = reason or ""
    return late


def _tail_reason(
    node: fx.Node,
    wrapper: InputOnlyModel,
    seen: list[NodeObservations],
    trained: set[str],
    moving: set[str],
    shapes: set[fx.Node],
) -> str | None:
    """Why the output of a node changes even for the same arguments; None if it doesn't."""
    if node.op == "output":
        return "the output"
    if any(node in each.random_nodes for each in seen):
        return f"{_node_label(node)}, which draws random numbers"
    if node.op == "call_module":
        module = wrapper.get_submodule(str(node.target))
        if any(map(has_hooks, module.modules())):
            return f"{_node_label(node)}, which has hooks"
    for name in _read_tensor_names(node, wrapper):
        if name in trained | moving:
            return f"{name}, which {'is trained' if name in trained else 'moves'}"
    is_number = isinstance(seen[0].values[node], int | float | complex)
    if is_number and node.op != "placeholder" and node not in shapes:
        return f"{_node_label(node)}, a number taken out of a tensor"
    if any(_mixes_samples(*values) for values in _tensor_pairs(node, seen)):
        return f"{_node_label(node)}, where the samples of a batch act on each other"
    return None


def _tensor_pairs(node: fx.Node, seen: list[NodeObservations]) -> Iterator[tuple[Tensor, Tensor]]:
    few, more = (list(iterate_tensors(each.values[node])) for each in seen)
    yield from zip(few, more, strict=len(few) == len(more))


def _mixes_samples(few: Tensor, more: Tensor) -> bool:
    """Whether a sample's values depend on the other samples of the batch, beyond rounding."""
    layout = RowLayout.infer(few, more)
    if layout is None or not few.is_floating_point():
        return False
    mine = more.narrow(layout.dim, 0, few.shape[layout.dim]).float()
    scale = mine.abs().amax().clamp(min=1e-30)
    return bool((few.float() - mine).abs().amax() > 0.01 * scale)


def _read_tensor_names(node: fx.Node, wrapper: InputOnlyModel) -> Iterator[str]:
    """Names of the model's tensors that a node itself reads."""
    target = str(node.target).removeprefix("model.")
    if node.op == "get_attr" and str(node.target).startswith("model."):
        yield target
    if node.op == "call_module":
        for name in named_tensors(wrapper.get_submodule(str(node.target))):
            yield f"{target}.{name}"


def _node_label(node: fx.Node) -> str:
    return str(node.target).removeprefix("model.") if node.op == "call_module" else node.name


def _find_cut_values(
    graph: fx.Graph, seen: list[NodeObservations], late: TailReasons
) -> tuple[dict[fx.Node, RowLayout], dict[fx.Node, Any]]:
    """The values that tail nodes read from prefix nodes: tensors to cache, and sizes to compute.

    Nodes with any other value are moved to the tail, repeatedly.
    """
    few, more = (each.values for each in seen)
    shapes = _find_shape_nodes(graph)
    while True:
        kept: dict[fx.Node, RowLayout] = {}
        sizes: dict[fx.Node, Any] = {}
        unkept = []
        for node in graph.nodes:
            if node in late or not any(user in late for user in node.users):
                continue
            layout = None
            if isinstance(few[node], Tensor):
                layout = RowLayout.infer(few[node], more[node])
            try:
                if layout is not None:
                    kept[node] = layout
                elif node in shapes:
                    sizes[node] = infer_size(few[node], more[node])
                else:
                    unkept.append(node)
            except NotCacheableValue:
                unkept.append(node)
        if not unkept:
            break
        for node in unkept:
            if node.op == "placeholder":
                raise NotCacheable("the inputs have no dimension for the samples")
            late[node] = ""
    for each in seen:
        for node, reader in each.stale_reads:
            if node not in late:
                raise NotCacheable(
                    f"{node.name} is changed in place and read again by {reader.name}"
                )
    for node in kept:
        changer = next((each.modified_by[node] for each in seen if node in each.modified_by), None)
        if changer is not None and changer not in late:
            raise NotCacheable(f"{node.name} is changed in place and needed as it was")
    return kept, sizes


def _find_shape_nodes(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that depend only on the shapes and types of tensors."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        asks = (node.op == "call_method" and node.target in SHAPE_QUERIES["call_method"]) or (
            node.target is getattr and node.args[1] in SHAPE_QUERIES["getattr"]
        )
        calls = node.op in ("call_function", "call_method")
        if asks or (calls and all(given in found for given in node.all_input_nodes)):
            found.add(node)
    return found


class _GraphCut:
    """Builds the graphs of prefix and tail from the graph of the model."""

    def __init__(
        self,
        graph: fx.Graph,
        late: TailReasons,
        kept: Mapping[fx.Node, RowLayout],
        sizes: Mapping[fx.Node, Any],
    ) -> None:
        self.graph, self.tail_nodes, self.cached_nodes, self.size_nodes = graph, late, kept, sizes
        self.prefix_nodes = self._find_prefix_nodes()

    def _find_prefix_nodes(self) -> list[fx.Node]:
        """The nodes that the cached values and sizes depend on, in order."""
        needed = {*self.cached_nodes, *self.size_nodes}
        for node in reversed(self.graph.nodes):
            if node in needed:
                needed.update(node.all_input_nodes)
        return [node for node in self.graph.nodes if node in needed]

    def build_prefix_graph(self) -> fx.Graph:
        made = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in self.prefix_nodes:
            copies[node] = made.node_copy(node, copies.__getitem__)
        made.output(
            tuple(tuple(copies[n] for n in nodes) for nodes in (self.cached_nodes, self.size_nodes))
        )
        return made

    def build_tail_graph(self) -> fx.Graph:
        made = fx.Graph()
        count = made.placeholder("count")
        copies: dict[fx.Node, Any] = {
            node: made.placeholder(f"kept{index}") for index, node in enumerate(self.cached_nodes)
        }
        for node in self.graph.nodes:
            if node in self.size_nodes:
                copies[node] = _emit_size(made, count, self.size_nodes[node])
            elif node in self.tail_nodes and node.op == "output":
                made.output(fx.node.map_arg(node.args[0], copies.__getitem__))
            elif node in self.tail_nodes:
                copies[node] = made.node_copy(node, copies.__getitem__)
        return made

    def prefix_tensors(self, wrapper: InputOnlyModel) -> frozenset[str]:
        return frozenset(
            name for node in self.prefix_nodes for name in _read_tensor_names(node, wrapper)
        )

    def last_layer(self, wrapper: InputOnlyModel) -> str:
        layers = [
            _node_label(node)
            for node in self.prefix_nodes
            if node.op == "call_module" and any(_read_tensor_names(node, wrapper))
        ]
        return layers[-1] if layers else self.prefix_nodes[-1].name


def _emit_size(graph: fx.Graph, count: fx.Node, size: Any) -> Any:
    if isinstance(size, LinearSize):
        number = graph.call_function(operator.mul, (count, size.per_sample))
        return graph.call_function(operator.add, (number, size.offset)) if size.offset else number
    if isinstance(size, tuple):
        return tuple(_emit_size(graph, count, item) for item in size)
    return size


def _compile_graph(wrapper: InputOnlyModel, graph: fx.Graph) -> Callable[..., Any]:
    """The graph as a function; modules and tensors are looked up in `wrapper` at each call."""
    graph.lint()
    code = graph.python_code(root_module="self")
    found: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, "<prefix>", "exec"), found)
    made: Callable[..., Any] = found["forward"].__get__(wrapper)
    return made
