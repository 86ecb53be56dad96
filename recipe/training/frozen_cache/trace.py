"""Traces the forward pass of a model into a torch.fx graph."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules import module as torch_module

from recipe.nn import rng
from recipe.training.frozen_cache import NotCacheable

HOOK_ATTRIBUTES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

GLOBAL_HOOK_ATTRIBUTES = tuple(f"_global{name}" for name in HOOK_ATTRIBUTES)


class InputOnlyModel(nn.Module):
    """A model whose forward takes the inputs only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Any:
        return self.model(inputs)


IN_PLACE_OPERATORS = (
    "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior",
    "ixor", "ilshift", "irshift",
)  # fmt: skip


class _InPlaceProxy(fx.Proxy):
    """Records in-place operators, which torch's own proxy records as new values."""

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


def _add_operator_method(name: str) -> None:
    def recorded(self: fx.Proxy, other: Any) -> fx.Proxy:
        called = getattr(operator, name)
        return self.tracer.create_proxy("call_function", called, (self, other), {})

    setattr(_InPlaceProxy, f"__{name}__", recorded)


for _name in IN_PLACE_OPERATORS:
    _add_operator_method(_name)


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # else buffers would be modified while tracing

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _InPlaceProxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """A module with hooks is called as a whole, so that its hooks run."""
        return has_hooks(m) or super().is_leaf_module(m, module_qualified_name)


def trace_model(model: InputOnlyModel) -> fx.Graph:
    """The graph of a forward pass in the current modes of the modules.

    Changes neither the model nor the random streams. Raises NotCacheable.
    """
    if any(getattr(torch_module, name, None) for name in GLOBAL_HOOK_ATTRIBUTES):
        raise NotCacheable("hooks on every module are registered")
    with rng.isolate_rng(), restore_attributes(model.model) as changed:
        before = rng.snapshot_rng()
        try:
            graph = _Tracer().trace(model)
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise NotCacheable(f"the model can't be traced ({reason})") from error
        if rng.snapshot_rng() != before:
            raise NotCacheable("the model draws random numbers that don't show in its graph")
    check_unchanged(changed)
    return graph


def check_unchanged(changed: list[str]) -> None:
    if changed:
        raise NotCacheable(f"{changed[0]} changes from one pass to the next")


def has_hooks(module: nn.Module) -> bool:
    return any(getattr(module, name, None) for name in HOOK_ATTRIBUTES)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All tensors of the model's modules: parameters, buffers and other attributes; shared tensors
    under each of their names."""
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        own = {**module._parameters, **module._buffers, **vars(module)}
        found |= {
            f"{path}.{key}".lstrip("."): value
            for key, value in own.items()
            if isinstance(value, Tensor)
        }
    return found


@contextmanager
def restore_attributes(model: nn.Module) -> Iterator[list[str]]:
    """Restores the attributes of all modules after the block, and lists those that had changed.

    The values of tensors are not compared.
    """
    changed: list[str] = []
    before = [
        (path, module, {key: (value, _shallow_copy(value)) for key, value in vars(module).items()})
        for path, module in model.named_modules()
    ]
    try:
        yield changed
    finally:
        for path, module, held in before:
            now = vars(module)
            for key in [key for key in now if key not in held]:
                changed.append(f"{path}.{key}".lstrip("."))
                del now[key]
            for key, (value, content) in held.items():
                if key not in now or not _is_unchanged(now[key], content):
                    changed.append(f"{path}.{key}".lstrip("."))
                    _restore_container(value, content)
                    now[key] = value


def _shallow_copy(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, dict | list | set) else value


def _is_unchanged(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(_is_unchanged(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_is_unchanged, one, other))
    return isinstance(one, bool | int | float | str | set | torch.dtype) and bool(one == other)


def _restore_container(value: Any, content: Any) -> None:
    if isinstance(value, dict | set):
        value.clear()
        value.update(content)
    elif isinstance(value, list):
        value[:] = content
