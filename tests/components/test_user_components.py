"""Mistakes in a trick or a file of one's own: each is told in a line that names it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import commands
import pytest

QUICK = (*commands.QUICK, "tracking=none")

TRICKS = """
import torch


def silent(params):
    torch.nn.utils.get_total_norm([p.grad for p in params])


def without_params(*, factor: float):
    return torch.zeros(())
"""

OPTIONS = {
    "conf/clip/silent.yaml": "_target_: mine.silent\n",
    "conf/clip/without_params.yaml": "_target_: mine.without_params\nfactor: 0.5\n",
    "conf/clip/broken.yaml": "_target_: unfinished.clip\n",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return commands.project(
        tmp_path, {"mine.py": TRICKS, "unfinished.py": "def clip(params:\n", **OPTIONS}
    )


@pytest.mark.parametrize(
    ("given", "status", "told"),
    [
        (
            ["clip=silent", "trust=[mine]"],
            1,
            "clip=silent returned None; a clip returns the norm of all gradients before clipping, "
            "a tensor of shape ()",
        ),
        (
            ["clip=without_params", "trust=[mine]"],
            2,
            "clip=without_params takes nothing by position, but is called with 1 argument before "
            "its settings (the docstring of recipe.components.clip describes them)",
        ),
        (
            ["clip=silent", "trust=[mien]"],
            2,
            "clip=silent: _target_ mine.silent: the package mine isn't trusted (and the "
            "trusted package mien doesn't exist); if it is yours, give trust=[mine]",
        ),
    ],
)
def test_invalid_user_trick_is_named(
    project: Path, given: list[str], status: int, told: str
) -> None:
    done = commands.run(project, *QUICK, *given)
    assert (done.status, done.problems) == (status, [f"recipe: {told}"])


def test_python_syntax_error_is_reported_with_file_and_line(project: Path) -> None:
    done = commands.run(project, *QUICK, "clip=broken", "trust=[unfinished]")
    (problem,) = done.problems
    assert done.status == 2
    assert problem.startswith("recipe: clip=broken: _target_ unfinished.clip: ")
    assert problem.endswith("unfinished.py, line 1); correct it")


PARTS = """
import torch

from recipe.components.contract import needs_total_steps


def changed(inputs, targets, generator, *, gives, alpha: float):
    return inputs, targets


def frozen(model, *, batchnorm, cache="auto"):
    pass


class Net(torch.nn.Linear):
    def __init__(self, *, weights=None, classes: int):
        super().__init__(8, classes)


@needs_total_steps
def rated(optimizer, *, per="epoch", total: int):
    return torch.optim.lr_scheduler.ConstantLR(optimizer)
"""


@pytest.mark.parametrize(
    ("group", "target", "settings", "names"),
    [
        ("augment", "parts.changed", "gives: indices\nalpha: 0.1", ["gives"]),
        ("augment", "parts.changed", "alpha: 0.1", ["gives"]),
        ("freeze", "parts.frozen", "batchnorm: eval", ["batchnorm", "cache"]),
        ("model", "parts.Net", "classes: 10", ["weights"]),
        ("scheduler", "parts.rated", "per: epoch", ["per"]),
    ],
)
def test_component_parameter_named_like_engine_setting_is_rejected(
    tmp_path: Path, group: str, target: str, settings: str, names: list[str]
) -> None:
    option = f"# Mine.\n_target_: {target}\n{settings}\n"
    commands.project(tmp_path, {"parts.py": PARTS, f"conf/{group}/mine.yaml": option})
    base = [word for word in QUICK if not word.startswith(f"{group}.")]
    done = commands.run(tmp_path, "plan", *base, f"{group}=mine", "trust=[parts]")
    assert done.status == 2
    assert done.problems == [
        f"recipe: {group}.{name}: {target} has a parameter of that name, but the engine reads the "
        f"setting {group}.{name} and doesn't pass it on; rename the parameter and its setting"
        for name in names
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("epochs: 1\n", "experiment: no such key; an experiment file's first line is"),
        (
            "# One epoch\n# @package _global_\ndefaults:\n  - override /clip: norm\n",
            "an experiment file's first line is `# @package _global_`",
        ),
        (
            "# @package _global_\ndefaults:\n  - override /clip: nrom\n",
            "clip=nrom: no such option; did you mean norm?",
        ),
        ("# @package _global_\nclip: norm\n", "defaults: [override /clip: norm]"),
    ],
)
def test_invalid_experiment_file_is_reported_with_a_remedy(
    tmp_path: Path, content: str, told: str
) -> None:
    commands.project(tmp_path, {"conf/experiment/e.yaml": content})
    done = commands.run(tmp_path, *QUICK, "experiment=e")
    (problem,) = done.problems
    assert done.status == 2 and told in problem


@pytest.mark.integration
def test_run_with_closed_output_pipe_stops_and_is_resumable(tmp_path: Path) -> None:
    started = subprocess.Popen(
        [*commands.PROGRAM, *QUICK, "epochs=50"], cwd=tmp_path, env=commands.environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert started.stdout is not None and started.stderr is not None
    started.stdout.readline()
    started.stdout.close()
    said = started.stderr.read()
    started.stderr.close()
    assert started.wait() == 1
    (run,) = commands.run_dirs(tmp_path)
    assert f"so the run stops; python -m recipe resume {run.name} resumes it" in said
    assert commands.read_json(run / "run.json")["status"] == "KILLED"


@pytest.mark.integration
def test_trick_calling_sys_exit_fails_its_run(tmp_path: Path) -> None:
    commands.project(
        tmp_path,
        {
            "ends.py": "import sys\n\n\ndef clip(params):\n    sys.exit(3)\n",
            "conf/clip/ends.yaml": "_target_: ends.clip\n",
        },
    )
    done = commands.spawn(tmp_path, *QUICK, "clip=ends", "trust=[ends]")
    (run,) = commands.run_dirs(tmp_path)
    assert done.status == 1 and "clip=ends raised SystemExit: 3 after 0 steps" in done.err
    assert commands.read_json(run / "run.json")["status"] == "FAILED"
