"""timm's models by name."""

from __future__ import annotations

from pydantic import PositiveInt
from torch import nn

from recipe.menu import nearest


def timm(*, name: str, channels: PositiveInt, classes: PositiveInt) -> nn.Module:
    """A model with random weights; takes (batch, channels, height, width), gives (batch, classes).

    Raises ValueError for a name timm doesn't have, and if it can't be imported.
    """
    try:
        import timm as library
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision beside another torch
        raise ValueError(
            f"model=timm needs timm, and it can't be imported ({error}); install the extra: "
            "pip install torch-recipe[vision]"
        ) from error

    if name not in library.list_models():
        raise ValueError(f"model.name: timm has no {name!r}{nearest(name, library.list_models())}")
    model: nn.Module = library.create_model(
        name, pretrained=False, in_chans=channels, num_classes=classes
    )
    return model
