"""torchvision's classification models by name, with its own weights if asked for.

To fine-tune what was trained on ImageNet is nearly always better than to train from scratch on a
few thousand photographs. Costs a download of the weights, once (torch keeps it), and images of the
size that they are made for.

Source: https://docs.pytorch.org/vision/stable/models.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from recipe.extras import imported
from recipe.menu import nearest
from recipe.weights import renamed

if TYPE_CHECKING:
    from recipe.pretrained import Offered


NAMES = re.compile(r"(?:IMAGENET|DEFAULT|COCO)[A-Z0-9_]*")
"""What torchvision calls weights."""


def torchvision(
    *, name: str, classes: PositiveInt, drop_path: Annotated[float, Field(ge=0, lt=1)] | None
) -> nn.Module:
    """A model with random weights and `classes` outputs; takes (batch, 3, height, width).

    `drop_path` is torchvision's stochastic_depth_prob. Raises ValueError for a name torchvision
    doesn't have, for a model without residual branches to drop, and if it can't be imported.
    """
    models = _library()
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"model.name: torchvision has no {name!r}{nearest(name, known)}")
    more = {} if drop_path is None else {"stochastic_depth_prob": drop_path}
    try:
        model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **more)
    except TypeError as error:
        if not more:
            raise
        raise ValueError(
            f"model.drop_path: torchvision's {name} takes none ({error}); use "
            "model.drop_path=null, or another model, such as convnext_tiny or efficientnet_b0"
        ) from error
    return model


def weights_torchvision(weights: str, *, name: str, **settings: Any) -> Offered | None:
    """What torchvision has for that model as IMAGENET1K_V1, IMAGENET1K_V2, ... or DEFAULT (its
    newest); None for any other name. Raises ValueError for one that only looks like those."""
    from recipe.pretrained import Inputs, Offered

    models = _library()
    if name not in models.list_models(module=models):
        return None
    known = models.get_model_weights(name)
    member = weights.removeprefix(f"{known.__name__}.")
    if member not in known.__members__:
        if NAMES.fullmatch(member):  # and no run's name
            there = ", ".join(known.__members__)
            raise ValueError(f"torchvision has no {member} for {name}; there are {there}")
        return None
    entry = known[member]
    treated = entry.transforms()
    return Offered(
        name=f"torchvision {entry}",
        inputs=Inputs(treated.crop_size[0], tuple(treated.mean), tuple(treated.std)),
        classes=tuple(entry.meta["categories"]),
        head=(),
        place=entry.url,
        load=lambda: entry.get_state_dict(
            progress=False, check_hash=True, map_location="cpu", weights_only=True
        ),
    )


DENSE_LAYER = re.compile(
    r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))"
)
"""A name in torchvision's files of DenseNet; today's modules have no dot before the number.

Source: `_load_state_dict` in torchvision/models/densenet.py.
"""


def renamed_torchvision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under today's names, as torchvision itself renames them before it loads them."""
    return renamed(weights, lambda name: DENSE_LAYER.sub(r"\1\2", name))


def _library() -> Any:
    return imported("torchvision.models", "model=torchvision", "vision")
