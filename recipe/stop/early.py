"""Early stopping: end a run whose validation accuracy has stopped rising.

Saves the epochs that would bring nothing, and some overfitting; the best epoch's weights are kept
in any case, so it is a matter of time more than of accuracy. With a schedule that spans the run
(cosine, one_cycle) a run that ends early never reaches the low learning rates where much of
the gain is: give it patience, or a constant or plateau schedule. Costs nothing. A run that stops
earlier had fewer chances to be at its best, and `compare` says how many epochs each went through.

Source: Prechelt 1998, Early Stopping - But When? (the third class of criteria there).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt


def early(
    accuracies: list[float],
    *,
    patience: PositiveInt,
    min_delta: Annotated[float, Field(ge=0, lt=1)],
) -> bool:
    """Whether the last `patience` epochs brought no accuracy more than `min_delta` above the best
    that counted before: the first one, then each that was such a rise."""
    best, waited = accuracies[0], 0
    for accuracy in accuracies[1:]:
        waited += 1
        if accuracy > best + min_delta:
            best, waited = accuracy, 0
    return waited >= patience
