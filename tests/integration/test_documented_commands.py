"""Every command of README.md and docs/ runs, in its order on the page, and ends as it is shown to.

Runs are made short by what a project's own file says, which a command's own words win over; ids
of runs on the page stand for those that were recorded here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import commands
import numpy as np
import pytest
from PIL import Image

PAGES = [commands.CHECKOUT / "README.md", *sorted((commands.CHECKOUT / "docs").glob("*.md"))]

SHORT = {
    "": "epochs: 2\ndevice: {threads: 1}\nhydra: {launcher: {workers: 1}}\n",
    "data=": "data: {train_size: 100}\n",
    "model=": "model: {widths: [4, 8, 8, 8]}\n",
}
"""What makes a command short, by what in it would have other settings."""

ELSEWHERE = {
    "make ": "what CI runs",
    "torchrun ": "tests/integration/test_distributed.py",
    "python -m recipe ui": "tests/cli/test_ui.py",
    "python -m recipe device=gpu": "tests/components/test_device.py, as there may be none",
    "python -m recipe tracking=server": "tests/integration/test_server_outages.py, with a server",
}
"""How a command begins that isn't run here, and what runs it."""

INSTEAD = {"'seed=range(10)'": "seed=0 epochs=1", "'seed=range(7)'": "seed=0 yes=true"}
"""Sweeps are made short in the number of seeds."""

RUN = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6,8}")


@dataclass(frozen=True)
class Shown:
    """A command, and what the page shows of its output."""

    command: str
    output: list[str] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        return bool(self.output) and self.output[0].startswith("recipe: ")

    @property
    def fails(self) -> bool:
        return any(line.startswith("recipe: ") for line in self.output) and "^C" not in self.output


def shown(page: Path) -> Iterator[Shown]:
    for block in re.findall(r"^```\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        found: list[Shown] = []
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Shown(line[2:]))
            elif found:
                found[-1].output.append(line)
        yield from found


def files(page: Path) -> dict[str, str]:
    """Files that the page shows, each headed by its path."""
    blocks = re.findall(r"^```(?:yaml|python)\n# (\S+)\n(.*?)^```$", page.read_text(), re.M | re.S)
    return dict(blocks)


def words(command: str, folder: Path) -> list[str]:
    for long, short in INSTEAD.items():
        command = command.replace(long, short)
    recorded = [run.name for run in reversed(commands.run_dirs(folder))]
    for asked, there in zip(dict.fromkeys(RUN.findall(command)), recorded, strict=False):
        command = command.replace(asked, there)
    return shlex.split(command)[3:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_documented_command_gives_shown_output(page: Path, tmp_path: Path) -> None:
    short, plain = tmp_path / "short", tmp_path / "plain"
    for folder in (short, plain):
        folder.mkdir()
        commands.project(folder, files(page))
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(short / "digit.png")
    for each in shown(page):
        if any(each.command.startswith(start) for start in ELSEWHERE):
            continue
        assert each.command.startswith("python -m recipe "), each.command
        if each.refused:  # before anything is trained, so that it needn't be short
            done = commands.run(plain, *words(each.command, plain))
            told = [line for line in each.output if line.startswith("recipe: ")]
            assert (done.status, done.problems) == (2, told), each.command
        else:
            quick = [text for word, text in SHORT.items() if not word or word not in each.command]
            commands.project(short, {"conf/project/default.yaml": "".join(quick)})
            done = commands.run(short, *words(each.command, short))
            assert done.status == (1 if each.fails else 0), (
                f"{each.command}\n{done.out}\n{done.err}"
            )


def test_documentation_pages_contain_commands() -> None:
    assert sum(len(list(shown(page))) for page in PAGES) > 40
