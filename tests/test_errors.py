"""Errors of settings are made of parts."""

from __future__ import annotations

import pickle

import pytest
from conftest import Compose

from recipe.config import schema
from recipe.errors import Problems, SettingError

ERROR = SettingError("clip.max_norm", "must be above 0", -1.0, "use clip=none for no clipping")


def test_setting_error_message_has_key_rule_value_and_remedy() -> None:
    line = "clip.max_norm must be above 0, got -1.0; use clip=none for no clipping"
    assert (str(ERROR), ERROR.problems) == (line, [line])


def test_setting_error_keeps_its_parts_when_pickled() -> None:
    copied = pickle.loads(pickle.dumps(ERROR))
    parts = (copied.key, copied.rule, copied.value, copied.way_out)
    assert parts == ("clip.max_norm", "must be above 0", -1.0, "use clip=none for no clipping")


def test_component_setting_error_is_collected_unchanged() -> None:
    problems = Problems()
    with problems.collect_component_errors("clip=norm"):
        raise ERROR
    assert problems == ERROR.problems


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"nonfinite_limit": 3},
            "nonfinite_limit has no effect with on_nonfinite=stop, which skips nothing, got 3; use "
            "on_nonfinite=skip, or leave it out",
        ),
        (
            {"output_dir": "/dev/null/runs"},
            "output_dir must be below a folder, but /dev/null is a file, got '/dev/null/runs'; use "
            "another output_dir",
        ),
        (
            {"output_dir": "/dev/null"},
            "output_dir must not be a device or a pipe, got '/dev/null'; use a file or a folder",
        ),
    ],
)
def test_run_setting_error_has_key_rule_value_and_remedy(
    composed: Compose, changes: dict[str, object], problem: str
) -> None:
    assert schema.find_run_setting_problems({**vars(composed()), **changes}) == [problem]
