"""What kept outputs are known by: a hash of everything that could change one bit of them."""

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
from recipe.components.data import Data, digest, skips
from recipe.components.data import Split as Samples
from recipe.components.data.image_files import decoders
from recipe.config import source_hash
from recipe.errors import SpecError
from recipe.training.frozen_cache.not_cacheable import Refused
from recipe.training.frozen_cache.split_model import Split

KNOWN = frozenset(("torch", "_operator", "builtins", "math", "recipe"))
"""Packages whose version is in the key in any case, or whose code shows in the graph."""

VARIABLES = ("ATEN_", "CUBLAS_", "DNNL_", "KMP_", "MKL_", "NVIDIA_TF32", "ONEDNN_", "TORCH_")
"""How the names of variables begin that libraries choose their instructions by."""

PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)


def key(split: Split, data: Data, part: str, inputs: Tensor, size: int) -> str:
    """64 hexadecimal digits, for a part of the data in batches of `size`, of which `inputs` are
    some as the model takes them. Within autocast. Raises Refused."""
    samples: Samples = getattr(data, part)
    content = {
        "data": [data.digest, part, size, digest(samples.targets)],
        "inputs": [_content(inputs), str(inputs.dtype)],
        "graph": list(_nodes(split.graph)),
        "modules": {
            str(node.target): list(_settings(split.whole.get_submodule(str(node.target))))
            for node in split.graph.nodes
            if node.op == "call_module"
        },
        "tensors": {name: _content(tensor) for name, tensor in _tensors(split)},
        "kept": [str(layout) for layout in split.layouts],
        "left out": skips(samples),
        "code": {"recipe": _own_code(), **_packages(split, samples)},
        "numerics": _numerics(inputs.device),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _nodes(graph: fx.Graph) -> Iterator[str]:
    for node in graph.nodes:
        yield f"{node.op} {node.name} {_target(node)} {node.args} {node.kwargs}"


def _target(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else _name(node.target)


def _name(called: Any) -> str:
    return f"{getattr(called, '__module__', None)}.{getattr(called, '__qualname__', called)}"


def _settings(root: nn.Module) -> Iterator[str]:
    """What a module that isn't looked into was made with, and the mode it is in."""
    for path, module in root.named_modules():
        yield f"{path} {_name(type(module))}"
        for name, value in sorted(vars(module).items()):
            if name not in ("_parameters", "_buffers", "_modules"):
                yield f"{path}.{name} = {_setting(value)}"


def _setting(value: Any) -> str:
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} {[_setting(item) for item in value]}"
    if isinstance(value, dict):
        return f"dict { {str(name): _setting(item) for name, item in value.items()} }"
    if isinstance(value, Tensor):
        return _content(value)
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        return _name(value)
    if isinstance(value, types.MethodType):
        return _name(value.__func__)
    if isinstance(value, set | frozenset):
        return f"set {sorted(map(_setting, value))}"
    return uuid.uuid4().hex  # what it means isn't known, so no other run may take this one's


def _tensors(split: Split) -> Iterator[tuple[str, Tensor]]:
    for node in split.graph.nodes:
        if node.op == "call_module":
            module = split.whole.get_submodule(str(node.target))
            for name, value in (*module.named_parameters(), *module.named_buffers()):
                yield f"{node.target}.{name}", value
        elif node.op == "get_attr":
            held: Any = split.whole
            for name in str(node.target).split("."):
                held = getattr(held, name)
            yield str(node.target), held


def _content(tensor: Tensor) -> str:
    return f"{digest(tensor)} {_order(tensor)}"


def _order(tensor: Tensor) -> str:
    """Its memory format: kernels are chosen by it."""
    return str(tensor[:1].stride()[1:] if tensor.ndim else ())


def _packages(split: Split, samples: Samples) -> dict[str, str]:
    """What stands for the code of the other packages whose functions the numbers go through."""
    used = {_name(node.target) for node in split.graph.nodes if node.op == "call_function"}
    transform = getattr(samples, "transform", None)
    while isinstance(transform, functools.partial):
        transform = transform.func
    used |= {_name(type(samples)), _name(transform)}
    if hasattr(samples, "files"):  # images are decoded anew each time
        used |= decoders(samples.files)
    for node in split.graph.nodes:
        if node.op == "call_module":
            module = split.whole.get_submodule(str(node.target))
            used |= {_name(type(part)) for part in module.modules()}
    try:
        return source_hash.identities({name.partition(".")[0] for name in used}, but=KNOWN)
    except SpecError as error:
        raise Refused(str(error)) from error


@functools.cache
def _own_code() -> str:
    """Of what reads inputs and keeps outputs."""
    package = Path(__file__).parents[2]
    folders = ("components/data", "nn", "training", "training/frozen_cache")
    files = [file for folder in folders for file in sorted((package / folder).glob("*.py"))]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _numerics(where: torch.device) -> dict[str, Any]:
    """What computes, with which versions and switches."""
    cuda = where.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(where) if cuda else f"{where.type} {_processor()}",
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
        "variables": sorted(item for item in os.environ.items() if item[0].startswith(VARIABLES)),
    }  # fmt: skip


@functools.cache
def _processor() -> str:
    return device.processor()
