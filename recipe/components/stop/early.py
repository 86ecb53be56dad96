"""Early stopping: end a run whose validation accuracy no longer improves.

Helps: Saving epochs without improvement; the weights of the best epoch are kept in any case.
Not with: Schedules of the length of the run (cosine, one_cycle), whose low learning rates at the
end are then never reached.
Costs: Nothing; it may save most of a run.

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
    """Returns whether accuracy hasn't improved in the last `patience` epochs.

    An epoch is an improvement if its accuracy is more than `min_delta` above that of the last
    improvement; the first epoch always is.
    """
    best, waited = accuracies[0], 0
    for accuracy in accuracies[1:]:
        waited += 1
        if accuracy > best + min_delta:
            best, waited = accuracy, 0
    return waited >= patience
