"""Which callables a `_target_` may name: they run code, so only known ones are called."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from recipe.config.groups import GROUPS
from recipe.config.option_files import builtin_targets, suggest_nearest
from recipe.formatting import format_value

TRUST_HINT = "choose an option of recipe, or trust your package"

DOWNLOAD_SETTINGS = ("weights", "pretrained")
"""Prefixes of the settings with which torchvision's models download weights."""


def locate_target(
    target: object, trusted_packages: Sequence[str], group: str | None = None
) -> Callable[..., Any]:
    """Imports the callable of a dotted name.

    It must be the `_target_` of one of recipe's option files (of `group`, if given), a class of
    torch that the group can use, a model of torchvision, an optimizer of pytorch_optimizer, or
    defined in a trusted package. The resolved object is checked, not only its name. Raises
    ValueError otherwise, before anything else is imported.
    """
    if not isinstance(target, str) or not all(word.isidentifier() for word in target.split(".")):
        raise ValueError(
            f"_target_ must be the dotted name of a callable, got {format_value(target)}; "
            "write package.name"
        )
    root = target.partition(".")[0]
    if root not in (*TARGET_CHECKS, *trusted_packages):
        missing = [name for name in trusted_packages if _is_missing_package(name)]
        note = f" (and the trusted package {', '.join(missing)} doesn't exist)" if missing else ""
        raise ValueError(
            f"_target_ {target}: the package {root} isn't trusted{note}; if it is yours, give "
            f"trust=[{root}]"
        )
    allowed = TARGET_CHECKS.get(root)
    if any(word.startswith("__") for word in target.split(".")) or (
        allowed is not None and not target.startswith(_get_allowed_prefixes(root, group))
    ):
        raise ValueError(f"_target_ {target} is not a component that a spec may call; {TRUST_HINT}")
    found = _import_target(target)
    home = _get_module_prefix(found)
    if allowed is not None:
        good = allowed(target, found, group)
    else:
        good = home.partition(".")[0] in trusted_packages
    if not good or not callable(found):
        where = f" (defined in {home.rstrip('.')})" if not target.startswith(home) else ""
        raise ValueError(
            f"_target_ {target}{where} is not a component that a spec may call; {TRUST_HINT}"
        )
    return found  # type: ignore[no-any-return]


def _is_missing_package(package: str) -> bool:
    """Whether there is no such package; it isn't imported."""
    try:
        return importlib.util.find_spec(package.partition(".")[0]) is None
    except ValueError:  # an invalid name, or a module without a spec
        return True


def check_nested_targets(node: Any, trusted: Sequence[str]) -> None:
    """Raises ValueError for a nested `_target_` that may not be called."""
    for value in _iter_children(node):
        if isinstance(value, Mapping) and "_target_" in value:
            _check_target_node(value, trusted)
        check_nested_targets(value, trusted)


def _check_target_node(node: Mapping[Any, Any], trusted: Sequence[str]) -> None:
    target = node["_target_"]
    called = locate_target(target, trusted)
    odd = [key for key in node if not isinstance(key, str)]
    odd += [key for key in node if str(key).startswith("_") and key not in RESERVED_KEYS]
    if odd:
        raise ValueError(f"_target_ {target} has no setting {odd[0]!r}; leave it out")
    if not isinstance(node.get("_partial_", False), bool):
        raise ValueError(f"_partial_ must be true or false, got {format_value(node['_partial_'])}")
    if not isinstance(node.get("_args_", []), list):
        raise ValueError(f"_args_ must be a list, got {format_value(node['_args_'])}")
    check_downloads(target, called, node)


def check_downloads(target: object, called: Callable[..., Any], node: Mapping[Any, Any]) -> None:
    """Raises ValueError for settings, defaults or positional arguments with which torchvision
    downloads weights."""
    if not _get_module_prefix(called).startswith("torchvision."):
        return
    usual = {key: p.default for key, p in inspect.signature(called).parameters.items()}
    for key, value in {**usual, **node}.items():
        if str(key).startswith(DOWNLOAD_SETTINGS) and value not in (None, False):
            raise ValueError(
                f"{key}: torchvision would download {value!r}; use {key}: null, and model.weights "
                "for your own file"
            )
    if not inspect.isclass(called) and (node.get("_args_") or node.get("_partial_")):
        raise ValueError(
            f"_target_ {target} could download weights given by position; leave out _args_ and "
            "_partial_, and give its settings by name"
        )


RESERVED_KEYS = ("_target_", "_partial_", "_args_")


def _iter_children(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        yield from node.values()
    elif isinstance(node, list):
        yield from node


def _get_allowed_prefixes(root: str, group: str | None) -> tuple[str, ...]:
    """Returns the prefixes of all allowed names; others are refused before an import."""
    if root == "recipe":
        return tuple(f"recipe.components.{name}." for name in ([group] if group else GROUPS))
    return ("torch.nn.", "torch.optim.") if root == "torch" else (TARGET_PREFIXES[root],)


def _get_module_prefix(found: Any) -> str:
    return f"{getattr(found, '__module__', None)}."


def _is_recipe_target(target: str, found: Any, group: str | None) -> bool:
    """Whether one of recipe's option files names it."""
    return any(target in builtin_targets(name) for name in ([group] if group else GROUPS))


BASE_CLASSES = {
    "model": "torch.nn.modules.module.Module",
    "loss": "torch.nn.modules.module.Module",
    "optimizer": "torch.optim.optimizer.Optimizer",
    "scheduler": "torch.optim.lr_scheduler.LRScheduler",
}


def _get_base_names(found: Any) -> list[str]:
    """Returns the full names of a class and its base classes, without an import."""
    mro = found.__mro__ if inspect.isclass(found) else ()
    return [f"{base.__module__}.{base.__qualname__}" for base in mro]


def _is_torch_target(target: str, found: Any, group: str | None) -> bool:
    wanted = {BASE_CLASSES.get(group, "")} if group else set(BASE_CLASSES.values())
    at_home = _get_module_prefix(found).startswith(("torch.nn.modules.", "torch.optim."))
    return at_home and not wanted.isdisjoint(_get_base_names(found))


def _is_torchvision_target(target: str, found: Any, group: str | None) -> bool:
    if group not in (None, "model"):
        return False
    if inspect.isclass(found):
        bases = _get_base_names(found)
        at_home = _get_module_prefix(found).startswith("torchvision.models.")
        # a GraphModule generates and compiles code
        is_graph = any(base.startswith("torch.fx.") for base in bases)
        return at_home and BASE_CLASSES["model"] in bases and not is_graph
    models = importlib.import_module("torchvision.models")  # `found` comes from it
    return found in [models.get_model_builder(name) for name in models.list_models()]


def _is_pytorch_optimizer(target: str, found: Any, group: str | None) -> bool:
    at_home = _get_module_prefix(found).startswith("pytorch_optimizer.optimizer.")
    optimizer = at_home and BASE_CLASSES["optimizer"] in _get_base_names(found)
    # excludes wrappers of another optimizer, whose state checkpoints would lack
    fits = group in (None, "optimizer") and optimizer
    return fits and "params" in inspect.signature(found).parameters


TARGET_CHECKS = {
    "recipe": _is_recipe_target, "torch": _is_torch_target, "torchvision": _is_torchvision_target,
    "pytorch_optimizer": _is_pytorch_optimizer,
}  # fmt: skip
"""Packages that are always trusted, and the functions that select their allowed callables."""

TARGET_PREFIXES = {"torchvision": "torchvision.models.", "pytorch_optimizer": "pytorch_optimizer."}

PACKAGE_EXTRAS = {"torchvision": "vision", "pytorch_optimizer": "optimizers"}
"""The extra of recipe that installs a package."""


def _import_target(target: str) -> Any:
    words = target.split(".")
    for cut in range(len(words) - 1, 0, -1):
        name = ".".join(words[:cut])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
                continue
            raise
        except RuntimeError as error:  # such as a torchvision built for another torch
            raise ValueError(f"_target_ {target}: {name} can't be imported: {error}") from error
        except SyntaxError as error:
            where = f"{error.filename}, line {error.lineno}"
            raise ValueError(f"_target_ {target}: {error.msg} ({where}); correct it") from error
        for word in words[cut:]:
            if not hasattr(found, word):
                raise ValueError(
                    f"_target_ {target}: {name} has no {word}{suggest_nearest(word, dir(found))}"
                )
            found = getattr(found, word)
        return found
    extra = PACKAGE_EXTRAS.get(words[0])
    way_out = f"pip install 'torch-recipe[{extra}]'" if extra else "correct its name"
    raise ValueError(f"_target_ {target}: there is no module {words[0]}; {way_out}")
