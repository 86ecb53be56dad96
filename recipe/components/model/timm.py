"""timm's models by name, optionally with its pretrained weights.

More than a thousand image models, most with several sets of weights. Pretrained weights are
downloaded once (huggingface_hub caches them) and need images of the size they were trained on.

Source: https://huggingface.co/docs/timm.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PositiveInt
from torch import nn

from recipe.components.contract import pretrained_weights
from recipe.components.model.library_weights import InputFormat, LibraryWeights
from recipe.config.option_files import suggest_nearest
from recipe.nn.optional_imports import import_optional


def timm(
    *,
    name: str,
    channels: PositiveInt,
    classes: PositiveInt,
    drop_path: Annotated[float, Field(ge=0, lt=1)] | None,
) -> nn.Module:
    """Returns a model with random weights that maps (batch, channels, height, width) to
    (batch, classes).

    `drop_path` is timm's drop_path_rate. Raises ValueError if timm has no model of that name, if
    the model has no residual branches to drop, or if timm can't be imported.
    """
    library = _import_timm()
    if name not in library.list_models():
        raise ValueError(
            f"model.name: timm has no {name!r}{suggest_nearest(name, library.list_models())}"
        )
    more = {} if drop_path is None else {"drop_path_rate": drop_path}
    try:
        model: nn.Module = library.create_model(
            name, pretrained=False, in_chans=channels, num_classes=classes, **more
        )
    except TypeError as error:
        if not more:
            raise
        raise ValueError(
            f"model.drop_path: timm's {name} takes none ({error}); use model.drop_path=null, or "
            "another model, such as resnet50 or convnext_tiny"
        ) from error
    return model


@pretrained_weights(timm)
def find_timm_weights(
    weights: str, *, name: str, channels: Any, **settings: Any
) -> LibraryWeights | None:
    """Returns timm's weights of that model with a tag such as a1_in1k, or DEFAULT; None if there
    are none. timm adapts the first convolution if `channels` isn't 3."""
    library = _import_timm()
    full = name if weights == "DEFAULT" else f"{name}.{weights}"
    if name not in library.list_models():
        return None
    there = library.list_pretrained([name, f"{name}.*"])
    if full not in there and not (weights == "DEFAULT" and there):
        return None
    made = library.get_pretrained_cfg(full)
    heads = made.classifier if isinstance(made.classifier, tuple) else (made.classifier,)
    return LibraryWeights(
        name=f"timm {made.architecture or name}.{made.tag}",
        input_format=InputFormat(made.input_size[-1], tuple(made.mean), tuple(made.std)),
        classes=(),
        head_modules=tuple(filter(None, heads)),
        source=f"huggingface.co/{made.hf_hub_id}" if made.hf_hub_id else str(made.url),
        load=lambda: library.create_model(full, pretrained=True, in_chans=channels).state_dict(),
    )


def _import_timm() -> Any:
    return import_optional("timm", "model=timm", "vision")
