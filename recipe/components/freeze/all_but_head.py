"""Train only the classifier, on fixed features.

Helps: New classes with few images or little time, if the weights were trained on similar data.
Not with: Random weights, whose features are poor; load others with `model.weights`.
Costs: It saves time: the outputs of the frozen layers are computed once, and epochs are short.
"""

from __future__ import annotations

from torch import nn

from recipe.nn import layers


def all_but_head(model: nn.Module, *, head: str) -> None:
    """Freezes everything except `head`: `auto` (the classifier, or all classifiers), or a pattern.

    Raises SpecError if the pattern matches no parameter.
    """
    trained = layers.find_head_parameters(model, head, "freeze.head")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
