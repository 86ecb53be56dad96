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

from recipe.components.contract import adapt_weights, pretrained_weights
from recipe.config.option_files import suggest_nearest
from recipe.nn.optional_imports import import_optional
from recipe.nn.weights import rename_weights

if TYPE_CHECKING:
    from recipe.components.model.library_weights import LibraryWeights


WEIGHTS_NAME_PATTERN = re.compile(r"(?:IMAGENET|DEFAULT|COCO)[A-Z0-9_]*")
"""What torchvision calls weights."""

AUXILIARY_CLASSIFIERS = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
"""The models with auxiliary classifiers, and how the names of the parameters of those begin."""


def torchvision(
    *, name: str, classes: PositiveInt, drop_path: Annotated[float, Field(ge=0, lt=1)] | None
) -> nn.Module:
    """A model with random weights and `classes` outputs; takes (batch, 3, height, width).

    `drop_path` is torchvision's stochastic_depth_prob. Auxiliary classifiers, as googlenet and
    inception_v3 have them, are left out: nothing here trains them. Raises ValueError for a name
    torchvision doesn't have, for a model without residual branches to drop, and if it can't be
    imported.
    """
    models = _import_torchvision_models()
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"model.name: torchvision has no {name!r}{suggest_nearest(name, known)}")
    more: dict[str, Any] = {} if drop_path is None else {"stochastic_depth_prob": drop_path}
    without = {"aux_logits": False} if name in AUXILIARY_CLASSIFIERS else {}
    try:
        model: nn.Module = models.get_model(
            name, weights=None, num_classes=classes, **without, **more
        )
    except TypeError as error:
        if not more:
            raise
        raise ValueError(
            f"model.drop_path: torchvision's {name} takes none ({error}); use "
            "model.drop_path=null, or another model, such as convnext_tiny or efficientnet_b0"
        ) from error
    return model


@pretrained_weights(torchvision)
def find_torchvision_weights(weights: str, *, name: str, **settings: Any) -> LibraryWeights | None:
    """What torchvision has for that model as IMAGENET1K_V1, IMAGENET1K_V2, ... or DEFAULT (its
    newest); None for any other name. Raises ValueError for one that only looks like those."""
    from recipe.components.model.library_weights import InputFormat, LibraryWeights

    models = _import_torchvision_models()
    if name not in models.list_models(module=models):
        return None
    known = models.get_model_weights(name)
    member = weights.removeprefix(f"{known.__name__}.")
    if member not in known.__members__:
        if WEIGHTS_NAME_PATTERN.fullmatch(member):  # and no run's name
            there = ", ".join(known.__members__)
            raise ValueError(f"torchvision has no {member} for {name}; there are {there}")
        return None
    entry = known[member]
    treated = entry.transforms()
    mean, std = treated.mean, treated.std
    if (
        name in AUXILIARY_CLASSIFIERS
    ):  # their weights are for these, to which torchvision's model goes back
        mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return LibraryWeights(
        name=f"torchvision {entry}",
        input_format=InputFormat(treated.crop_size[0], tuple(mean), tuple(std)),
        classes=tuple(entry.meta["categories"]),
        head_modules=(),
        source=entry.url,
        load=lambda: entry.get_state_dict(
            progress=False, check_hash=True, map_location="cpu", weights_only=True
        ),
    )


OLD_DENSENET_KEY = re.compile(
    r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))"
)
"""A name in torchvision's files of DenseNet; today's modules have no dot before the number.

Source: `_load_state_dict` in torchvision/models/densenet.py.
"""


@adapt_weights(torchvision)
def adapt_torchvision_weights(
    weights: Mapping[str, Tensor], *, name: str, **settings: Any
) -> dict[str, Tensor]:
    """Weights of a file under today's names, as torchvision itself renames them before it loads
    them, without those of auxiliary classifiers."""
    found = rename_weights(weights, lambda key: OLD_DENSENET_KEY.sub(r"\1\2", key))
    for key in [key for key in found if key.startswith(AUXILIARY_CLASSIFIERS.get(name, ()))]:
        del found[key]
    return found


def _import_torchvision_models() -> Any:
    return import_optional("torchvision.models", "model=torchvision", "vision")
