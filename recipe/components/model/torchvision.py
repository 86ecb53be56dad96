"""torchvision's classification models by name, optionally with its pretrained weights.

Fine-tuning a model that was trained on ImageNet is nearly always better than training from scratch
on a few thousand photographs. Pretrained weights are downloaded once (torch caches them) and need
images of the size they were trained on.

Source: https://docs.pytorch.org/vision/stable/models.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from recipe.components.contract import adapt_weights, pretrained_weights
from recipe.components.model.library_weights import InputFormat, LibraryWeights
from recipe.config.option_files import suggest_nearest
from recipe.nn.optional_imports import import_optional
from recipe.nn.weights import rename_weights

WEIGHTS_NAME_PATTERN = re.compile(r"(?:IMAGENET|DEFAULT|COCO)[A-Z0-9_]*")

AUXILIARY_CLASSIFIERS = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
"""Models with auxiliary classifiers, and the prefixes of the parameters of these classifiers."""


def torchvision(
    *, name: str, classes: PositiveInt, drop_path: Annotated[float, Field(ge=0, lt=1)] | None
) -> nn.Module:
    """Returns a model with random weights that maps (batch, 3, height, width) to (batch, classes).

    `drop_path` is torchvision's stochastic_depth_prob. The auxiliary classifiers of googlenet and
    inception_v3 are left out, as the engine doesn't train them. Raises ValueError if torchvision
    has no model of that name, if the model has no residual branches to drop, or if torchvision
    can't be imported.
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
    """Returns torchvision's weights of that model: IMAGENET1K_V1, IMAGENET1K_V2, ... or DEFAULT
    (the newest); None for any other name. Raises ValueError for a name of that form that
    torchvision doesn't have for the model."""
    models = _import_torchvision_models()
    if name not in models.list_models(module=models):
        return None
    known = models.get_model_weights(name)
    member = weights.removeprefix(f"{known.__name__}.")
    if member not in known.__members__:
        if WEIGHTS_NAME_PATTERN.fullmatch(member):  # else it is the name of a run
            there = ", ".join(known.__members__)
            raise ValueError(f"torchvision has no {member} for {name}; there are {there}")
        return None
    entry = known[member]
    treated = entry.transforms()
    mean, std = treated.mean, treated.std
    if name in AUXILIARY_CLASSIFIERS:
        # these weights were trained with this normalisation; torchvision's model converts its input
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
"""A parameter name in torchvision's DenseNet files; current modules have no dot before the number.

Source: `_load_state_dict` in torchvision/models/densenet.py.
"""


@adapt_weights(torchvision)
def adapt_torchvision_weights(
    weights: Mapping[str, Tensor], *, name: str, **settings: Any
) -> dict[str, Tensor]:
    """Returns the weights with current parameter names, renamed as torchvision does before loading,
    and without those of auxiliary classifiers."""
    found = rename_weights(weights, lambda key: OLD_DENSENET_KEY.sub(r"\1\2", key))
    for key in [key for key in found if key.startswith(AUXILIARY_CLASSIFIERS.get(name, ()))]:
        del found[key]
    return found


def _import_torchvision_models() -> Any:
    return import_optional("torchvision.models", "model=torchvision", "vision")
