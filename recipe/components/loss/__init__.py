"""Loss: called as `loss(output, target, **settings) -> ()` for each batch.

`output` holds logits, shape (batch, classes), always float32: a loss is computed outside autocast.
`target` holds class indices, shape (batch,), int64, or, with an augmentation that mixes images,
probabilities, shape (batch, classes). The setting `takes` of the option is read by the engine and
says which of the two a loss accepts; it must include indices, which validation uses. A class, such
as torch.nn.CrossEntropyLoss, is instantiated once with the settings. Shapes that could only be
broadcast must raise ValueError (see `check_target`).

`@no_effect(loss)` (recipe.components.contract) registers `function(**settings)`, which returns the
reason why the loss changes nothing with these settings, or None.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from recipe.components.contract import PlannedRun, check


@check("loss")
def check_target_form(planned: PlannedRun) -> Iterator[str]:
    """A loss must accept the targets of the augmentation and those of validation."""
    takes = planned.settings("loss").get("takes", ["indices"])
    gives = planned.settings("augment").get("gives", "indices")
    if gives not in takes:
        yield (
            f"{planned.choice('augment')} gives {gives}, but {planned.choice('loss')} takes "
            f"{' or '.join(takes)} (loss.takes); use loss=cross_entropy, or augment=none"
        )
    elif "indices" not in takes:
        yield (
            f"{planned.choice('loss')} takes probabilities alone (loss.takes), but validation, "
            "which isn't augmented, gives indices; use loss=cross_entropy or loss=mse_one_hot"
        )


def check_target(output: Tensor, target: Tensor) -> None:
    """Raises ValueError unless `target` has one of the two forms of the contract.

    The range of class indices is checked only on the CPU, as the check would synchronize with a GPU
    in each step; the engine checks all targets once before training.
    """
    shapes = f"output {tuple(output.shape)}, target {tuple(target.shape)}"
    if output.ndim != 2:
        raise ValueError(
            f"loss: the model's output must have shape (batch, classes), got {shapes}; "
            "end the model with one number per class"
        )
    if target.is_floating_point():
        if target.shape != output.shape:
            raise ValueError(
                f"loss: floating-point targets are probabilities, one per class, got {shapes}; "
                "for class indices use int64"
            )
    elif target.dtype != torch.int64:
        raise ValueError(
            f"loss: targets must be class indices (int64) or probabilities (floating point), "
            f"got {target.dtype}; convert them with .long()"
        )
    elif target.shape != output.shape[:1]:
        raise ValueError(
            f"loss: class indices must have shape (batch,), got {shapes}; give one per sample"
        )
    elif target.is_cpu and target.numel():
        classes = output.shape[1]
        low, high = (int(bound) for bound in target.aminmax())
        if low < 0 or high >= classes:
            raise ValueError(
                f"loss: class indices must be from 0 to {classes - 1}, as the model has {classes} "
                f"outputs, got {low if low < 0 else high}; correct the data or set data.classes"
            )
