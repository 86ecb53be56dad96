"""The tenth trick is the user's: a YAML file and a function of theirs, with no edit here."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import commands
import pytest

CLIP = '''
import torch

def mine(params, *, ceiling: float):
    """Returns the norm before, and nothing else."""
    if ceiling <= 0:
        raise ValueError(f"clip.ceiling must be above 0, got {ceiling}")
    return torch.nn.utils.clip_grad_norm_(params, ceiling)
'''

OPTION = """\
# Ours: a ceiling for the norm.
_target_: mytricks.mine
ceiling: 0.001  # nothing above it
"""

PROJECT = {
    "mytricks.py": CLIP,
    "conf/clip/mine.yaml": OPTION,
    "conf/project/default.yaml": "trust: [mytricks]\n",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return commands.project(tmp_path, PROJECT)


def last(run: Path, key: str) -> float:
    lines = commands.read_lines(run / "metrics.jsonl")
    values: list[float] = [line["metrics"][key] for line in lines if key in line["metrics"]]
    return values[-1]


def test_help_lists_user_options_beside_builtin_ones(home: Path) -> None:
    lines = [line.strip() for line in commands.run(home, "--help").out.splitlines()]
    at = lines.index("clip")
    names = [line.lstrip("* ").split()[0] for line in lines[at + 1 : at + 6]]
    assert names == ["agc", "none", "norm", "value", "mine"]
    assert "mine   Ours: a ceiling for the norm." in lines


def test_user_trick_is_planned_like_a_builtin_one(home: Path) -> None:
    done = commands.run(home, "plan", *commands.QUICK, "clip=mine", "clip.ceiling=0.5")
    assert done.status == 0
    assert ["clip", "mine", "ceiling=0.5"] in [line.split() for line in done.out.splitlines()]


def test_invalid_user_trick_settings_are_rejected_like_builtin_ones(home: Path) -> None:
    for overrides, problem in (
        (["clip=mien"], "clip=mien: no such option; did you mean mine?"),
        (
            ["clip=mine", "clip.ceilign=2"],
            "clip.ceilign=2: clip=mine has no setting ceilign; did you mean ceiling?",
        ),
        (
            ["clip=mine", "clip.ceiling=high"],
            "clip.ceiling must be a number, got 'high'; use 0.001, the default (nothing above it)",
        ),
        (
            ["clip=none", "clip.ceiling=1"],
            "clip.ceiling=1: clip=none takes no settings; it is a setting of clip=mine",
        ),
    ):
        done = commands.run(home, "plan", *commands.QUICK, *overrides)
        assert (done.status, done.err) == (2, f"recipe: {problem}\n")


@pytest.mark.integration
def test_user_trick_runs_from_the_checkout(home: Path) -> None:
    done = commands.spawn(home, *commands.QUICK, "clip=mine")
    assert done.status == 0
    (run,) = commands.run_dirs(home)
    assert last(run, "clip/hit_rate") == 1.0  # every gradient is longer than 0.001
    assert commands.read_json(run / "run.json")["name"] == "clip=mine"


def test_user_trick_is_swept_with_builtin_ones(home: Path) -> None:
    done = commands.sweep(
        home, "-m", *commands.QUICK, "epochs=1", "clip=none,norm,mine", "tracking=none"
    )
    assert done.status == 0
    rates = {
        commands.read_json(run / "run.json")["name"]: last(run, "clip/hit_rate")
        for run in commands.run_dirs(home)
    }
    assert set(rates) == {"clip=none", "clip=norm", "clip=mine"}
    assert (rates["clip=none"], rates["clip=mine"]) == (0.0, 1.0)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel, unpacked."""
    dist, target = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    built = commands.spawn(
        commands.CHECKOUT, "-m", "hatchling", "build", "-t", "wheel", "-d", str(dist),
        program=(sys.executable,),
    )  # fmt: skip
    assert built.status == 0, built.err
    (wheel,) = dist.glob("torch_recipe-*.whl")
    installed = commands.spawn(
        dist, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target),
        str(wheel), program=(sys.executable,),
    )  # fmt: skip
    assert installed.status == 0, installed.err
    return target


@pytest.mark.integration
def test_user_trick_runs_from_the_wheel(home: Path, site: Path) -> None:
    code = (
        "import recipe; from recipe.config import option_files; print(recipe.__file__, "
        "option_files.builtin_conf_dir())"
    )
    where = commands.spawn(
        home, "-c", code, program=(sys.executable,), PYTHONPATH=str(site)
    ).out.split()
    assert where == [str(site / "recipe" / "__init__.py"), str(site / "recipe" / "conf")]
    script = (sys.executable, str(site / "bin" / "recipe"))
    done = commands.spawn(
        home, *commands.QUICK, "epochs=1", "clip=mine", program=script, PYTHONPATH=str(site)
    )
    assert done.status == 0, done.err
    (run,) = commands.run_dirs(home)
    assert last(run, "clip/hit_rate") == 1.0


@pytest.mark.integration
def test_wheel_contains_all_option_files(site: Path) -> None:
    ours, theirs = commands.CHECKOUT / "conf", site / "recipe" / "conf"
    files = sorted(path.relative_to(ours) for path in ours.rglob("*.yaml"))
    assert len(files) > 40
    assert sorted(path.relative_to(theirs) for path in theirs.rglob("*.yaml")) == files


def test_untrusted_user_code_is_not_imported(tmp_path: Path) -> None:
    loud = "raise SystemExit('imported')\n" + CLIP
    commands.project(tmp_path, {"mytricks.py": loud, "conf/clip/mine.yaml": OPTION})
    done = commands.run(tmp_path, *commands.QUICK, "clip=mine")
    assert (done.status, done.err) == (
        2,
        "recipe: clip=mine: _target_ mytricks.mine: the package mytricks isn't trusted; "
        "if it is yours, give trust=[mytricks]\n",
    )
    assert not (tmp_path / "outputs").exists()


def test_trust_setting_is_accepted_on_the_command_line(tmp_path: Path) -> None:
    commands.project(tmp_path, {"mytricks.py": CLIP, "conf/clip/mine.yaml": OPTION})
    done = commands.run(tmp_path, "plan", *commands.QUICK, "clip=mine", "trust=[mytricks]")
    assert done.status == 0


def test_user_config_yaml_does_not_replace_the_builtin_one(tmp_path: Path) -> None:
    commands.project(tmp_path, PROJECT | {"conf/config.yaml": "seed: 77\nepochs: 99\n"})
    done = commands.run(tmp_path, "plan", *commands.CPU, "data.train_size=100", "clip=mine")
    assert done.status == 0
    assert done.out.startswith("clip=mine: seed 0, 12 epochs of 2 steps, ")


def test_project_settings_apply_to_every_run_in_the_project(tmp_path: Path) -> None:
    settings = "seed: 77\nepochs: 3\ndata:\n  train_size: 100\n"
    commands.project(tmp_path, {"conf/project/default.yaml": settings})
    done = commands.run(tmp_path, "plan", *commands.CPU)
    assert done.out.startswith("baseline: seed 77, 3 epochs of 2 steps, ")
    done = commands.run(tmp_path, "plan", *commands.CPU, "seed=1")
    assert done.out.startswith("baseline: seed 1, 3 epochs of 2 steps, ")


def test_user_option_with_built_in_name_is_rejected_when_selected(home: Path) -> None:
    commands.project(home, {"conf/clip/norm.yaml": OPTION})
    done = commands.run(home, "plan", *commands.QUICK, "clip=norm")
    hidden = home / "conf" / "clip" / "norm.yaml"
    assert (done.status, done.err) == (
        2,
        f"recipe: clip=norm: recipe's own option hides {hidden}; give yours another name\n",
    )
    assert commands.run(home, "plan", *commands.QUICK, "clip=mine").status == 0


NETWORK = """
from collections import OrderedDict

from torch import nn

class Source(nn.Module):
    def __init__(self, classes):
        super().__init__()
        layers, channels = OrderedDict(), 1
        for name, width in (("1_1", 4), ("1_2", 4), ("2_1", 8), ("2_2", 8)):
            layers[f"convolution{name}"] = nn.Conv2d(channels, width, 3, padding=1)
            layers[f"relu{name}"] = nn.ReLU()
            channels = width
        self.cnn = nn.Module()
        self.cnn.VGG_16 = nn.Sequential(layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, images):
        return self.head(self.cnn.VGG_16(images).mean((2, 3)))

def source(*, classes: int):
    return Source(classes)
"""


def test_source_network_prints_the_expected_parameter_table(tmp_path: Path) -> None:
    commands.project(
        tmp_path,
        {
            "network.py": NETWORK,
            "conf/model/source.yaml": "_target_: network.source\nclasses: ${data.classes}\n",
            "conf/project/default.yaml": "trust: [network]\n",
        },
    )
    names = [f"cnn.VGG_16.convolution{n}.{kind}" for n in ("1_1", "1_2", "2_1", "2_2")
             for kind in ("weight", "bias")]  # fmt: skip
    arguments = [
        *commands.CPU, "data.train_size=100", "epochs=1", "model=source", "freeze=by_name",
        f"freeze.names=[{','.join(names[:4])}]", "tracking=none",
    ]  # fmt: skip
    for verb in (["plan"], []):
        done = commands.run(tmp_path, *verb, *arguments)
        assert (done.status, done.err) == (0, "")
        rows = [line.split() for line in done.out.splitlines() if line.startswith("cnn.")]
        assert [(row[0], row[-2], row[-1]) for row in rows] == [
            (name, "True", after)
            for name, after in zip(names, ["False"] * 4 + ["True"] * 4, strict=True)
        ]


def test_output_dir_other_than_text_is_rejected_by_status(tmp_path: Path) -> None:
    home = commands.project(tmp_path, {"conf/project/default.yaml": "output_dir: [a, b]\n"})
    done = commands.run(home, "status")
    assert (done.status, done.out) == (2, "")
    assert done.problems == ["recipe: output_dir must be a string, got ['a', 'b']"]


def parse_modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((commands.CHECKOUT / "recipe").rglob("*.py")):
        yield path.relative_to(commands.CHECKOUT), ast.parse(path.read_text(encoding="utf-8"))


MAX_LATE_IMPORTS = 15


def test_number_of_imports_within_functions_is_limited() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path, tree in parse_modules()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert len(set(found)) <= MAX_LATE_IMPORTS, found


def test_every_setting_error_has_four_nonempty_parts() -> None:
    calls = [
        (f"{path}:{node.lineno}", node)
        for path, tree in parse_modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "SettingError"
    ]
    assert len(calls) > 10
    for where, call in calls:
        assert len(call.args) == 4 and not call.keywords, where
        for part in call.args:
            assert not (isinstance(part, ast.Constant) and not part.value), where


def test_package_has_few_top_level_modules() -> None:
    package = commands.CHECKOUT / "recipe"
    assert len(list(package.glob("*.py"))) <= 6
    packages = {path.parent.name for path in package.glob("*/__init__.py")}
    assert packages == {
        "audit",
        "checkpoint",
        "cli",
        "compare",
        "components",
        "config",
        "evidence",
        "mlflow_sync",
        "nn",
        "runner",
        "store",
        "sweep",
        "training",
    }
