"""A model in two: the prefix, whose outputs never change, and the tail, all the rest.

The tail calls the model's own modules and reads its own tensors at every call, so whatever
trains, averages, saves or watches the model needs to know nothing of it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from recipe.training.frozen_cache.not_cacheable import Refused
from recipe.training.frozen_cache.observed_nodes import (
    Observed,
    flat,
    multiply_adds,
    observe,
)
from recipe.training.frozen_cache.tensor_layout import (
    COUNTS,
    Layout,
    Sized,
    Unkept,
    plain,
    sized,
)
from recipe.training.frozen_cache.trace import (
    Whole,
    check_unchanged,
    has_hooks,
    remembered,
    tensors,
    trace,
)

WORTH = 8
"""Multiply-adds that a kept byte must save. On a CPU an epoch took 1.03 of the time with 2 to 7 of
them a byte (a first layer of 3 x 3 alone), and 0.8 with 170 (two layers and a pooling)."""

SHAPES = {
    "getattr": ("shape", "ndim", "dtype", "device", "is_cuda", "itemsize"),
    "call_method": ("size", "dim", "ndimension", "numel", "nelement", "element_size"),
}
"""What may be asked of a tensor without looking at its numbers."""

Reasons = dict[fx.Node, str]
"""Nodes that can't be in the prefix, with what keeps them; empty: they follow one of the others."""


@dataclass(frozen=True)
class Split:
    whole: Whole
    graph: fx.Graph
    """Of the prefix: from the inputs to what is kept, and to what goes by the batch's size."""
    layouts: tuple[Layout, ...]
    """Of what is kept."""
    sizes: tuple[Any, ...]
    """What goes by the batch's size, as layout.plain tells of it."""
    compiled: Callable[[Tensor], tuple[tuple[Tensor, ...], tuple[Any, ...]]]
    """The graph."""
    tail: Callable[..., Tensor]
    """Called with the number of samples and what is kept of them."""
    reads: frozenset[str]
    """The parameters, buffers and other tensors of the prefix."""
    last: str
    """The last layer with weights in it."""
    share: float
    """Of the model's multiply-adds."""

    @property
    def bytes(self) -> int:
        """Kept of a sample."""
        return sum(layout.bytes for layout in self.layouts)

    def prefix(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """What is to be kept of a batch. Raises Refused if it is not of the form it should be."""
        kept, sizes = self.compiled(inputs)
        count = len(inputs)
        fit = all(
            value.shape == layout.full(count) and value.dtype == layout.dtype
            for value, layout in zip(kept, self.layouts, strict=True)
        )
        if not fit or tuple(sizes) != sized(self.sizes, count):
            raise Refused("the shapes within the model depend on what is in a batch")
        return kept


def split(model: nn.Module, inputs: Tensor, trained: set[str], moving: set[str]) -> Split:
    """For the modes that the model is in, from max(COUNTS) inputs as it is given them.

    `trained` are names of parameters that training moves, `moving` of tensors that a forward pass
    does. Raises Refused. Buffers are for the caller to preserve.
    """
    whole = Whole(model)
    graph = trace(whole)
    with remembered(model) as changed:
        seen = [observe(whole, graph, inputs[:count]) for count in COUNTS]
        work = multiply_adds(whole, graph, inputs[: COUNTS[0]])
    check_unchanged(changed)
    late = _late(graph, whole, seen, trained, moving)
    kept, sizes = _crossing(graph, seen, late)
    cut = _Cut(graph, late, kept, sizes)
    pruned, reads = cut.prefix(), cut.reads(whole)
    saved = sum(work[node] for node in cut.early)
    if saved // COUNTS[0] < WORTH * sum(layout.bytes for layout in kept.values()) or not saved:
        raise Refused(_too_little(late, bool(saved)))
    return Split(
        whole, pruned, tuple(kept.values()), tuple(sizes.values()), _compiled(whole, pruned),
        _compiled(whole, cut.tail()), reads, cut.last(whole), saved / sum(work.values()),
    )  # fmt: skip


def moved(model: nn.Module, inputs: Tensor) -> set[str]:
    """Names of the tensors that a forward pass in the present modes changes."""
    before = tensors(model)
    kept = {name: (value.detach().clone(), value._version) for name, value in before.items()}
    with torch.no_grad(), remembered(model) as changed:
        model(inputs)
        after = tensors(model)
    check_unchanged(changed)
    return {
        name
        for name, value in before.items()
        if after.get(name) is not value
        or value._version != kept[name][1]
        or not torch.equal(value.nan_to_num(), kept[name][0].nan_to_num())
    }


def _late(
    graph: fx.Graph, whole: Whole, seen: list[Observed], trained: set[str], moving: set[str]
) -> Reasons:
    late: Reasons = {}
    shapes = _of_shapes(graph)
    for node in graph.nodes:
        reason = _own_reason(node, whole, seen, trained, moving, shapes)
        if reason or any(given in late for given in node.all_input_nodes):
            late[node] = reason or ""
    return late


def _own_reason(
    node: fx.Node,
    whole: Whole,
    seen: list[Observed],
    trained: set[str],
    moving: set[str],
    shapes: set[fx.Node],
) -> str | None:
    """Why a node gives something else each time, whatever it is given; None: it doesn't."""
    if node.op == "output":
        return "the output"
    if any(node in each.random for each in seen):
        return f"{_called(node)}, which draws random numbers"
    if node.op == "call_module":
        module = whole.get_submodule(str(node.target))
        if any(map(has_hooks, module.modules())):
            return f"{_called(node)}, which has hooks"
    for name in _reads(node, whole):
        if name in trained | moving:
            return f"{name}, which {'is trained' if name in trained else 'moves'}"
    if node.op != "placeholder" and node not in shapes and _is_number(seen[0].values[node]):
        return f"{_called(node)}, a number taken out of a tensor"
    if any(_mixes(*values) for values in _values(node, seen)):
        return f"{_called(node)}, where the samples of a batch act on each other"
    return None


def _values(node: fx.Node, seen: list[Observed]) -> Iterator[tuple[Tensor, Tensor]]:
    few, more = (list(flat(each.values[node])) for each in seen)
    yield from zip(few, more, strict=len(few) == len(more))


def _mixes(few: Tensor, more: Tensor) -> bool:
    """Whether a sample's numbers depend on what else is in the batch, by more than rounding."""
    layout = Layout.of(few, more)
    if layout is None or not few.is_floating_point():
        return False
    mine = more.narrow(layout.dim, 0, few.shape[layout.dim]).float()
    scale = mine.abs().amax().clamp(min=1e-30)
    return bool((few.float() - mine).abs().amax() > 0.01 * scale)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | complex)


def _reads(node: fx.Node, whole: Whole) -> Iterator[str]:
    """Names of the model's tensors that a node itself reads."""
    target = str(node.target).removeprefix("model.")
    if node.op == "get_attr" and str(node.target).startswith("model."):
        yield target
    if node.op == "call_module":
        for name in tensors(whole.get_submodule(str(node.target))):
            yield f"{target}.{name}"


def _called(node: fx.Node) -> str:
    return str(node.target).removeprefix("model.") if node.op == "call_module" else node.name


def _crossing(
    graph: fx.Graph, seen: list[Observed], late: Reasons
) -> tuple[dict[fx.Node, Layout], dict[fx.Node, Any]]:
    """What the late nodes take of the others: tensors to keep, and numbers made anew.

    What is neither is made late as well, and so on.
    """
    few, more = (each.values for each in seen)
    shapes = _of_shapes(graph)
    while True:
        kept: dict[fx.Node, Layout] = {}
        sizes: dict[fx.Node, Any] = {}
        unkept = []
        for node in graph.nodes:
            if node in late or not any(user in late for user in node.users):
                continue
            layout = None
            if isinstance(few[node], Tensor):
                layout = Layout.of(few[node], more[node])
            try:
                if layout is not None:
                    kept[node] = layout
                elif node in shapes:
                    sizes[node] = plain(few[node], more[node])
                else:
                    unkept.append(node)
            except Unkept:
                unkept.append(node)
        if not unkept:
            break
        for node in unkept:
            if node.op == "placeholder":
                raise Refused("the inputs have no dimension for the samples")
            late[node] = ""
    for each in seen:
        for node, reader in each.stale:
            if node not in late:
                raise Refused(f"{node.name} is changed in place and read again by {reader.name}")
    for node in kept:
        changer = next((each.changers[node] for each in seen if node in each.changers), None)
        if changer is not None and changer not in late:
            raise Refused(f"{node.name} is changed in place and needed as it was")
    return kept, sizes


def _of_shapes(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that depend on the shapes and types of tensors alone."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        asks = (node.op == "call_method" and node.target in SHAPES["call_method"]) or (
            node.target is getattr and node.args[1] in SHAPES["getattr"]
        )
        calls = node.op in ("call_function", "call_method")
        if asks or (calls and all(given in found for given in node.all_input_nodes)):
            found.add(node)
    return found


class _Cut:
    """The two graphs, made of one."""

    def __init__(
        self,
        graph: fx.Graph,
        late: Reasons,
        kept: Mapping[fx.Node, Layout],
        sizes: Mapping[fx.Node, Any],
    ) -> None:
        self.graph, self.late, self.kept, self.sizes = graph, late, kept, sizes
        self.early = self._needed()

    def _needed(self) -> list[fx.Node]:
        """The nodes that what is kept is made of, in order."""
        needed = {*self.kept, *self.sizes}
        for node in reversed(self.graph.nodes):
            if node in needed:
                needed.update(node.all_input_nodes)
        return [node for node in self.graph.nodes if node in needed]

    def prefix(self) -> fx.Graph:
        made = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in self.early:
            copies[node] = made.node_copy(node, copies.__getitem__)
        made.output(tuple(tuple(copies[n] for n in nodes) for nodes in (self.kept, self.sizes)))
        return made

    def tail(self) -> fx.Graph:
        made = fx.Graph()
        count = made.placeholder("count")
        copies: dict[fx.Node, Any] = {
            node: made.placeholder(f"kept{index}") for index, node in enumerate(self.kept)
        }
        for node in self.graph.nodes:
            if node in self.sizes:
                copies[node] = _of_size(made, count, self.sizes[node])
            elif node in self.late and node.op == "output":
                made.output(fx.node.map_arg(node.args[0], copies.__getitem__))
            elif node in self.late:
                copies[node] = made.node_copy(node, copies.__getitem__)
        return made

    def reads(self, whole: Whole) -> frozenset[str]:
        return frozenset(name for node in self.early for name in _reads(node, whole))

    def last(self, whole: Whole) -> str:
        layers = [
            _called(node)
            for node in self.early
            if node.op == "call_module" and any(_reads(node, whole))
        ]
        return layers[-1] if layers else self.early[-1].name


def _of_size(graph: fx.Graph, count: fx.Node, size: Any) -> Any:
    if isinstance(size, Sized):
        number = graph.call_function(operator.mul, (count, size.per))
        return graph.call_function(operator.add, (number, size.plus)) if size.plus else number
    if isinstance(size, tuple):
        return tuple(_of_size(graph, count, item) for item in size)
    return size


def _compiled(whole: Whole, graph: fx.Graph) -> Callable[..., Any]:
    """The graph as a function; names are looked up in `whole` when it is called."""
    graph.lint()
    code = graph.python_code(root_module="self")
    found: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, "<prefix>", "exec"), found)
    made: Callable[..., Any] = found["forward"].__get__(whole)
    return made


def _too_little(late: Reasons, some: bool) -> str:
    first = next(filter(None, late.values()))
    return f"{'too little' if some else 'nothing'} to save before {first}"
