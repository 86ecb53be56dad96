"""Data: called as `part(split, **settings) -> Data` before any other component.

`split` is a torch.Generator, for drawing which samples are trained on and which validated on.
Three settings of every option are read by the engine and not passed on: `batch_size`,
`eval_batch_size`, and `classes`, the number of classes that other groups are built for (`auto`:
as many as the data have). Settings named `channels` and `size` give the shape of the inputs.

Problems that can be found before the first step raise ValueError or SpecError (all problems at
once). A split whose samples turn out to be unreadable later raises DataError.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from recipe.components.contract import PlannedRun, check
from recipe.components.data.dataset import (
    Batch,
    Data,
    InMemory,
    Split,
    first_samples_batch,
    readable_indices,
)
from recipe.components.data.digest import hash_files, hash_tensors
from recipe.components.data.sampling import balanced_subset, stratified_split
from recipe.nn import memory_limit

__all__ = [
    "Batch",
    "Data",
    "InMemory",
    "Split",
    "balanced_subset",
    "first_samples_batch",
    "hash_files",
    "hash_tensors",
    "readable_indices",
    "stratified_split",
]

ChannelMean = Annotated[float, Field(ge=0, le=1)]
ChannelStd = Annotated[float, Field(ge=1e-6, allow_inf_nan=False)]


@check("data")
def check_data_settings(planned: PlannedRun) -> Iterator[str]:
    """Checks the batch size, and that the other groups are built for these data."""
    size, samples = planned.settings("data")["batch_size"], len(planned.data.train)
    if size > samples:
        yield (
            f"data.batch_size is {size}, but there are {samples} training samples; use "
            f"data.batch_size={samples} or less"
        )
    height, width = planned.data.size
    try:
        memory_limit.check_free_memory(
            4 * size * planned.data.channels * height * width,
            "data.batch_size", "use smaller batches",
        )  # fmt: skip
    except ValueError as error:
        yield str(error)
    facts = {
        "channels": planned.data.channels,
        "classes": len(planned.data.classes),
        "size": planned.data.size[0],
    }
    for group in ("model", "augment", "loss"):
        settings = planned.settings(group)
        component = planned.components.get(group)
        if component is None or not component.is_builtin:  # a user's settings may differ
            continue
        for key, fact in facts.items():
            stated = settings.get(key, "auto")
            if stated not in ("auto", fact):
                yield (
                    f"{group}.{key} is {stated}, but the data have {fact}; leave it out, or use "
                    f"{group}.{key}={fact}"
                )
