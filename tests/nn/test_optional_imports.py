"""Libraries that an extra installs, and that may not fit the torch that is installed."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import commands
import pytest


def test_documented_torch_and_torchvision_versions_are_compatible() -> None:
    pinned = dict(
        line.strip().split("==")
        for line in (commands.CHECKOUT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    readme = (commands.CHECKOUT / "README.md").read_text()
    named = set(re.findall(r"torch==([\d.]+) torchvision==([\d.]+)", readme))
    assert named == {(pinned["torch"], pinned["torchvision"])}
    assert importlib.metadata.version("torchvision") == pinned["torchvision"]
    needed = importlib.metadata.requires("torchvision") or []
    assert re.sub(r"[ ()]", "", next(each for each in needed if each.startswith("torch"))) == (
        f"torch=={pinned['torch']}"
    )


@pytest.mark.integration
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_mismatched_torchvision_is_rejected_with_install_commands(
    tmp_path: Path, library: str
) -> None:
    """In processes of their own: the fixture `torchvision` makes it importable in this one."""
    python = (commands.PROGRAM[0], "-c", f"import {library}")
    works = commands.spawn(tmp_path, program=python).status == 0
    done = commands.spawn(
        tmp_path, "plan", *commands.CPU, f"model={library}", "data.channels=3",
        "model.name=resnet18",
    )  # fmt: skip
    if works:
        assert (done.status, done.err) == (0, "")
        return
    version = importlib.metadata.version("torch").partition("+")[0]
    (problem,) = done.problems
    assert done.status == 2
    assert problem.startswith(f"recipe: model={library} needs {library}, and it can't be imported")
    assert problem.endswith(
        "; torchvision was not built for this torch; install both builds for the CPU alone with "
        f"`uv pip install --reinstall --torch-backend=cpu torch=={version} torchvision`, or both "
        f"for an NVIDIA GPU with `pip install --force-reinstall torch=={version} torchvision`"
    )
