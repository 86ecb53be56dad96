"""The key of cached outputs: a hash of everything that could change them."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import types
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from recipe.components import device
from recipe.components.data import Data, hash_tensors
from recipe.components.data import Split as Samples
from recipe.config import source_hash
from recipe.errors import SpecError
from recipe.training.frozen_cache import NotCacheable
from recipe.training.frozen_cache.split_model import ModelSplit

COVERED_PACKAGES = frozenset(("torch", "_operator", "builtins", "math", "recipe"))
"""Packages whose version is always in the key, or whose code is in the graph."""

NUMERICS_VARIABLE_PREFIXES = (
    "ATEN_",
    "CUBLAS_",
    "DNNL_",
    "KMP_",
    "MKL_",
    "NVIDIA_TF32",
    "ONEDNN_",
    "TORCH_",
)
"""Prefixes of environment variables by which libraries choose kernels."""

PLAIN_TYPES = (bool, int, float, str, type(None), torch.dtype, torch.device)


def compute_cache_key(
    split: ModelSplit, data: Data, part: str, inputs: Tensor, batch_size: int
) -> str:
    """64 hexadecimal digits for the split `part` in batches of `batch_size`, called in autocast.

    `inputs` are a few inputs of the split on the device. Raises NotCacheable.
    """
    samples = data.splits[part]
    content = {
        "data": [data.digest, part, batch_size, hash_tensors(samples.targets)],
        "inputs": [_hash_tensor(inputs), str(inputs.dtype)],
        "graph": list(_describe_nodes(split.prefix_graph)),
        "modules": {
            str(node.target): list(_module_settings(split.wrapper.get_submodule(str(node.target))))
            for node in split.prefix_graph.nodes
            if node.op == "call_module"
        },
        "tensors": {name: _hash_tensor(tensor) for name, tensor in _graph_tensors(split)},
        "kept": [str(layout) for layout in split.layouts],
        "left out": samples.skips_unreadable,
        "code": {"recipe": _hash_own_code(), **_package_versions(split, samples)},
        "numerics": _numerics_settings(inputs.device),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _describe_nodes(graph: fx.Graph) -> Iterator[str]:
    for node in graph.nodes:
        yield f"{node.op} {node.name} {_target_name(node)} {node.args} {node.kwargs}"


def _target_name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else _qualified_name(node.target)


def _qualified_name(called: Any) -> str:
    return f"{getattr(called, '__module__', None)}.{getattr(called, '__qualname__', called)}"


def _module_settings(root: nn.Module) -> Iterator[str]:
    """The attributes and modes of a module that is called as one node of the graph."""
    for path, module in root.named_modules():
        yield f"{path} {_qualified_name(type(module))}"
        for name, value in sorted(vars(module).items()):
            if name not in ("_parameters", "_buffers", "_modules"):
                yield f"{path}.{name} = {_format_setting(value)}"


def _format_setting(value: Any) -> str:
    if isinstance(value, PLAIN_TYPES):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} {[_format_setting(item) for item in value]}"
    if isinstance(value, dict):
        return f"dict { {str(name): _format_setting(item) for name, item in value.items()} }"
    if isinstance(value, Tensor):
        return _hash_tensor(value)
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        return _qualified_name(value)
    if isinstance(value, types.MethodType):
        return _qualified_name(value.__func__)
    if isinstance(value, set | frozenset):
        return f"set {sorted(map(_format_setting, value))}"
    return uuid.uuid4().hex  # unknown: never equal to that of another run


def _graph_tensors(split: ModelSplit) -> Iterator[tuple[str, Tensor]]:
    for node in split.prefix_graph.nodes:
        if node.op == "call_module":
            module = split.wrapper.get_submodule(str(node.target))
            for name, value in (*module.named_parameters(), *module.named_buffers()):
                yield f"{node.target}.{name}", value
        elif node.op == "get_attr":
            held: Any = split.wrapper
            for name in str(node.target).split("."):
                held = getattr(held, name)
            yield str(node.target), held


def _hash_tensor(tensor: Tensor) -> str:
    return f"{hash_tensors(tensor)} {_memory_order(tensor)}"


def _memory_order(tensor: Tensor) -> str:
    """Its memory format: kernels are chosen by it."""
    return str(tensor[:1].stride()[1:] if tensor.ndim else ())


def _package_versions(split: ModelSplit, samples: Samples) -> dict[str, str]:
    """Versions or hashes of the other packages whose functions compute the outputs."""
    used = {
        _qualified_name(node.target)
        for node in split.prefix_graph.nodes
        if node.op == "call_function"
    }
    for node in split.prefix_graph.nodes:
        if node.op == "call_module":
            module = split.wrapper.get_submodule(str(node.target))
            used |= {_qualified_name(type(part)) for part in module.modules()}
    try:
        return source_hash.compute_source_ids(
            samples.packages | {name.partition(".")[0] for name in used}, exclude=COVERED_PACKAGES
        )
    except SpecError as error:
        raise NotCacheable(str(error)) from error


@functools.cache
def _hash_own_code() -> str:
    """Hash of the code that reads inputs and stores outputs."""
    package = Path(__file__).parents[2]
    folders = ("components/data", "nn", "training", "training/frozen_cache")
    files = [file for folder in folders for file in sorted((package / folder).glob("*.py"))]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _numerics_settings(where: torch.device) -> dict[str, Any]:
    """Hardware, versions and settings that may change results."""
    cuda = where.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(where) if cuda else f"{where.type} {_cpu_name()}",
        "torch": [torch.__version__, torch.version.cuda, torch.__config__.show()],
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "autocast": [torch.is_autocast_enabled(where.type),
                     str(torch.get_autocast_dtype(where.type))],
        "switches": [
            torch.get_float32_matmul_precision(), torch.backends.mkldnn.enabled,
            torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.enabled,
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic,
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32,
        ],
        "variables": sorted(
            item for item in os.environ.items() if item[0].startswith(NUMERICS_VARIABLE_PREFIXES)
        ),
    }  # fmt: skip


@functools.cache
def _cpu_name() -> str:
    return device.cpu_name()
