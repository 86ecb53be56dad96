"""Exceptions of components during training, reported in one line that names the component."""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from recipe.config.groups import GROUPS
from recipe.config.spec import RunSpec
from recipe.errors import DEBUG_HINT, RecipeError, describe_exception, is_output_closed
from recipe.formatting import pluralize
from recipe.training.run import Run


@contextmanager
def wrap_component_errors(spec: RunSpec, run: Run) -> Iterator[None]:
    """Raises RecipeError for an exception raised in the code of one of the run's components."""
    try:
        yield
    except RecipeError:
        raise
    except (Exception, SystemExit) as error:
        group = None if is_output_closed(error) else _find_failing_group(run, error)
        if group is None:
            raise
        raise RecipeError(
            f"{group}={spec.options[group]} raised {describe_exception(error)} after "
            f"{pluralize(run.position.step, 'step')}; {DEBUG_HINT}"
        ) from error


def _find_failing_group(run: Run, error: BaseException) -> str | None:
    """The group of the component in whose code, or below it, an exception was raised."""
    if isinstance(error.__cause__, Exception) and (
        group := _find_failing_group(run, error.__cause__)
    ):
        return group
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    components = {
        group: _get_component_objects(run, group) for group in GROUPS if group != "device"
    }
    for frame in reversed(frames):
        for group, component in components.items():
            if _is_frame_of(frame, component):
                return group
    return None


def _get_component_objects(run: Run, group: str) -> list[Any]:
    """The objects of a group whose code runs during training."""
    match group:
        case "data":
            return [run.data.train, run.data.val]
        case "model":
            return list(run.model.modules())
        case "scheduler":
            return [run.lr_schedule.scheduler]
        case "precision":
            return [run.autocast]
        case _:
            return [getattr(run, group, None)]


def _is_frame_of(frame: FrameType, component: list[Any]) -> bool:
    """Whether a frame runs a function of the component, or a method of one of its objects."""
    bound = frame.f_locals.get("self")
    return any(
        frame.f_code is _get_code_object(each) or (bound is not None and bound is each)
        for each in component
    )


def _get_code_object(component: Any) -> CodeType | None:
    """The code of a function without its settings and wrappers; None for other objects."""
    component = inspect.unwrap(component)
    while isinstance(component, functools.partial):
        component = inspect.unwrap(component.func)
    return getattr(component, "__code__", None)
