"""The environment variables of a spec's device, set before torch is imported, which reads them."""

from __future__ import annotations

from recipe.components import device
from recipe.config.instantiate import Components, instantiate
from recipe.config.spec import RunSpec
from recipe.errors import Problems


def set_device_environment(spec: RunSpec, problems: Problems) -> Components:
    """Returns the device's component; without it, its problems are added to `problems`."""
    components = instantiate(spec, ("device",))
    problems += components.problems.get("device", [])
    if "device" in components:
        before = len(problems)
        with problems.collect_component_errors(f"device={spec.options['device']}"):
            device.set_environment(components["device"].bind()().environment())
        if len(problems) > before:
            del components["device"]
    return components
