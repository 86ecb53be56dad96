"""The environment variables of a spec's device, set before torch is imported, which reads them."""

from __future__ import annotations

from recipe.components import device
from recipe.config.instantiate import find_component_problems, instantiate_device
from recipe.config.spec import RunSpec
from recipe.errors import Problems


def set_device_environment(spec: RunSpec, problems: Problems) -> bool:
    """Returns whether the device can be used; adds to `problems` what is wrong with it."""
    if found := find_component_problems(spec, ("device",)):
        problems += [line for lines in found.values() for line in lines]
        return False
    before = len(problems)
    with problems.collect_component_errors(f"device={spec.options['device']}"):
        device.set_environment(instantiate_device(spec).environment())
    return len(problems) == before
