"""The table of groups is the only place in recipe/ that lists them."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

import commands

from recipe.config.groups import GROUPS, RUN_SETTINGS
from recipe.config.spec import RunSpec

TRICK = "def none(): ...\n\n\ndef noise(*, scale: float):\n    return scale\n"


def test_spec_fields_match_the_table_of_groups() -> None:
    settings = dict.fromkeys(key.partition(".")[0] for key in RUN_SETTINGS)
    names = [field.name for field in dataclasses.fields(RunSpec)]
    assert names == ["options", *settings, *GROUPS]


def test_new_group_needs_only_folders_and_one_table_line(tmp_path: Path) -> None:
    for name in ("recipe", "conf"):
        shutil.copytree(commands.CHECKOUT / name, tmp_path / name)
    table = tmp_path / "recipe" / "config" / "groups.py"
    line = '    Group("clip", 1, off="none"),\n'
    assert line in table.read_text()
    added = f'{line}    Group("noise", 0, off="none"),\n'
    table.write_text(table.read_text().replace(line, added))
    defaults = tmp_path / "conf" / "config.yaml"
    defaults.write_text(
        defaults.read_text().replace("  - clip: none\n", "  - clip: none\n  - noise: none\n")
    )
    target = "_target_: recipe.components.noise.tricks"
    commands.project(
        tmp_path,
        {
            "recipe/components/noise/__init__.py": "",
            "recipe/components/noise/tricks.py": TRICK,
            "conf/noise/none.yaml": f"# No noise.\n{target}.none\n",
            "conf/noise/normal.yaml": f"# Noise.\n{target}.noise\nscale: 0.5\n",
        },
    )
    work = tmp_path / "work"
    work.mkdir()

    def plan(*overrides: str) -> commands.Result:
        return commands.spawn(
            work, "plan", *commands.QUICK, *overrides,
            program=(sys.executable, "-m", "recipe"), PYTHONPATH=str(tmp_path),
        )  # fmt: skip

    done = plan("noise=normal", "noise.scale=2")
    assert done.status == 0, done.err
    assert ["noise", "normal", "scale=2"] in [line.split() for line in done.out.splitlines()]
    assert plan("noise=normal", "noise.scale=high").problems == [
        "recipe: noise.scale must be a number, got 'high'; use 0.5, the default"
    ]
    assert plan("~noise").problems == [
        "recipe: ~noise: every run has a noise; to turn it off, use noise=none"
    ]
