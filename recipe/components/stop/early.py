"""Early stopping: end a run whose validation accuracy has stopped rising.

Helps: Saving the epochs that would bring nothing; the best epoch's weights are kept in any case.
Not with: Schedules as long as the run (cosine, one_cycle), whose low learning rates an early end
never reaches. A run that ended early had fewer epochs to be at its best.
Costs: Nothing, and may save most of a run.

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
