"""torchvision's classification models by name."""

from __future__ import annotations

from pydantic import PositiveInt
from torch import nn

from recipe.menu import nearest


def torchvision(*, name: str, classes: PositiveInt) -> nn.Module:
    """A model with random weights and `classes` outputs; takes (batch, 3, height, width).

    Raises ValueError for a name torchvision doesn't have, and if it can't be imported.
    """
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:  # RuntimeError: beside a torch it isn't made for
        raise ValueError(
            f"model=torchvision needs torchvision, and it can't be imported ({error}); install the "
            "extra: pip install torch-recipe[vision]"
        ) from error

    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"model.name: torchvision has no {name!r}{nearest(name, known)}")
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    return model
