"""The environment of a run: versions, machine, and the git commit."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Mapping

from recipe import __version__

PACKAGES = (
    "torch", "hydra-core", "omegaconf", "mlflow", "torchinfo", "numpy", "scikit-learn", "scipy",
    "safetensors", "pillow", "torchvision", "timm",
)  # fmt: skip


@functools.cache
def get_versions() -> Mapping[str, str]:
    """The versions of recipe, Python and the packages that a run's numbers can depend on."""
    found = {"recipe": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def get_git_commit() -> str | None:
    """The working directory's commit, with `-dirty` if files have changed; None outside git."""
    try:
        commit = _run_git("rev-parse", "HEAD")
        return f"{commit}-dirty" if _run_git("status", "--porcelain", "-uno") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _run_git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()


def describe(hardware: str, threads: int, processes: int, commit: str | None) -> str:
    """The content of the artifact environment.txt."""
    facts = {
        "device": hardware,
        "threads": threads,
        "processes": processes,
        "system": platform.platform(),
        "command": " ".join(sys.argv[1:]),
        "git": commit or "not a repository",
    }
    lines = [f"{name}: {value}" for name, value in facts.items()]
    lines += [f"{package}=={version}" for package, version in get_versions().items()]
    return "\n".join([*lines, ""])
