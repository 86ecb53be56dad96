"""Train the classifier alone, on features that stay as they are.

Helps: A first try on new classes, with few images or little time, from weights of similar data.
Not with: Random weights, of which the head would learn little; `model.weights` brings others.
Costs: Less than nothing: with the frozen part computed once, an epoch takes a small share of
the time.
"""

from __future__ import annotations

from torch import nn

from recipe.nn import layers


def all_but_head(model: nn.Module, *, head: str) -> None:
    """Freeze everything but `head`: `auto` (the classifier, all of several), or a name or pattern.

    Raises SpecError if the pattern matches nothing.
    """
    trained = layers.find_head_parameters(model, head, "freeze.head")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
