"""Commands as a user gives them: in a process of their own, or in this one where all is alike.

A command of its own takes about five seconds, most of it imports; one that runs here takes one.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from recipe.cli import main

CPU = ("device=cpu", "device.threads=1")

QUICK = (*CPU, "data.train_size=100", "epochs=2", "model.widths=[4,8]")
"""100 digits in 2 batches an epoch, 2 epochs, a VGG of two narrow blocks: a second."""

CHECKOUT = Path(__file__).parent.parent

FREE = re.compile(r"[\d,.]+ are free")
"""How much memory is free differs from one moment to the next."""

PROGRAM = (sys.executable, "-m", "recipe")


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def problems(self) -> list[str]:
        return self.err.splitlines()


def run(folder: Path, *arguments: str) -> Result:
    """`recipe <arguments>` in this process, with `folder` as working directory."""
    out, err = io.StringIO(), io.StringIO()
    shown = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with _as_it_was(folder), contextlib.chdir(folder), shown[0], shown[1]:
        status = main.run_command_line(list(arguments))
    return Result(status, out.getvalue(), err.getvalue())


def sweep(folder: Path, *arguments: str) -> Result:
    """As `run`; the jobs of a sweep are run in this process too, one after the other."""
    return run(folder, *arguments, "hydra/launcher=basic")


def rejected(folder: Path, *arguments: str) -> list[str]:
    """What is told of settings that are refused: alike by plan and by training, which leave nothing
    behind."""
    planned, trained = (run(folder, *verb, *arguments) for verb in (["plan"], []))
    assert (planned.status, trained.status) == (2, 2), planned.err
    told = [[FREE.sub("some free", line) for line in done.problems] for done in (planned, trained)]
    assert told[0] == told[1]
    assert not (folder / "outputs").exists()
    return [line.removeprefix("recipe: ") for line in planned.problems]


@contextlib.contextmanager
def _as_it_was(folder: Path) -> Iterator[None]:
    environment, path, arguments = dict(os.environ), list(sys.path), list(sys.argv)
    thresholds = gc.get_threshold()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:], sys.argv[:] = path, arguments
        for number, handler in handlers.items():
            signal.signal(number, handler)
        torch.set_num_threads(threads)
        for name, module in list(sys.modules.items()):
            if _is_below(folder, module):
                del sys.modules[name]
        importlib.invalidate_caches()


def _is_below(folder: Path, module: ModuleType) -> bool:
    """Whether a module is of a project in the folder; a namespace package has no file."""
    spec = vars(module).get("__spec__")
    places = [
        vars(module).get("__file__"),
        *(getattr(spec, "submodule_search_locations", None) or ()),
    ]
    return any(str(place).startswith(f"{folder}{os.sep}") for place in places)


def spawn(
    folder: Path, *arguments: str, program: tuple[str, ...] = PROGRAM, **variables: str
) -> Result:
    """`python -m recipe <arguments>`, or another program, in a process of its own."""
    done = subprocess.run(
        [*program, *arguments], cwd=folder, env=environment(**variables),
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """As `spawn`, without waiting for its end; in a process group of its own, as in a
    terminal."""
    return subprocess.Popen(
        [*PROGRAM, *arguments], cwd=folder, env=environment(**variables),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
    )  # fmt: skip


def environment(**variables: str) -> dict[str, str]:
    """One thread, the checkout's recipe wherever the command runs, and no notice of what a busy
    machine takes long for."""
    fixed = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT), "RECIPE_NOTICE_AFTER": "0"}
    return os.environ | fixed | variables


def project(folder: Path, files: Mapping[str, str]) -> Path:
    """A user's own project: its files by path, with their content."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder


def run_dirs(folder: Path) -> list[Path]:
    """The folders of the recorded runs, in the order in which they started."""
    return sorted((folder / "outputs" / "runs").glob("*"))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
