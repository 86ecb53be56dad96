"""Which callables a spec may name: `_target_` runs code, so only known parts are called."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from recipe.menu import GROUPS, nearest

TORCH_HOMES = ("torch.nn.modules.", "torch.optim.")
"""Where torch's building blocks live; a class found anywhere else is none of them."""


def locate(target: object, trusted: Sequence[str]) -> Callable[..., Any]:
    """The callable of that dotted name.

    It must be a part of recipe (`recipe.<group>.<option>.<name>`), a building block of torch
    (torch.nn, torch.optim) or of torchvision.models, or defined in one of the `trusted`
    packages. What the name resolves to is looked at, not only how it is spelled.
    Raises ValueError otherwise, before anything of an untrusted package is imported.
    """
    if not isinstance(target, str) or not all(word.isidentifier() for word in target.split(".")):
        raise ValueError(f"_target_ must be the dotted name of a callable, got {target!r}")
    root = target.partition(".")[0]
    if root not in ("recipe", "torch", "torchvision", *trusted):
        raise ValueError(
            f"_target_ {target}: the package {root} isn't trusted; if it is yours, say "
            f"trust=[{root}]"
        )
    found = _resolve(target)
    home = f"{getattr(found, '__module__', None)}."
    if root == "recipe":
        parts = target.split(".")
        ours = len(parts) == 4 and parts[1] in GROUPS and home == ".".join(parts[:3]) + "."
        allowed = ours and not parts[3].startswith("_")
    elif root == "torch":
        allowed = inspect.isclass(found) and home.startswith(TORCH_HOMES) and _building_block(found)
    elif root == "torchvision":
        allowed = home.startswith("torchvision.models.")
    else:
        allowed = home.partition(".")[0] in trusted
    if not allowed or not callable(found):
        where = f" (it lives in {home.rstrip('.')})" if not target.startswith(home) else ""
        raise ValueError(f"_target_ {target}{where} is not a part that a spec may call")
    return found  # type: ignore[no-any-return]


def _building_block(found: type) -> bool:
    from torch import nn, optim

    return issubclass(found, (nn.Module, optim.Optimizer, optim.lr_scheduler.LRScheduler))


def _resolve(target: str) -> Any:
    words = target.split(".")
    for cut in range(len(words) - 1, 0, -1):
        name = ".".join(words[:cut])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
                continue
            raise
        except RuntimeError as error:  # such as torchvision beside a torch it isn't made for
            raise ValueError(f"_target_ {target}: {name} can't be imported: {error}") from error
        for word in words[cut:]:
            if not hasattr(found, word):
                raise ValueError(
                    f"_target_ {target}: {name} has no {word}{nearest(word, dir(found))}"
                )
            found = getattr(found, word)
        return found
    raise ValueError(f"_target_ {target}: there is no module {words[0]} to import")
