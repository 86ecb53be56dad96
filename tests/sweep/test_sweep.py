from pathlib import Path
from typing import Any

import commands
import pytest
from run_equality import PICTURES
from sweep_records import mlflow_runs, names_and_states, run_folder, sweep_folder


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    arguments = ("-m", *commands.QUICK, "clip=none,norm", "seed=0,1")
    done = commands.sweep(folder, *arguments)
    assert done.status == 0
    assert "clip=none,norm seed=0,1: 4 runs" in done.out.splitlines()
    return folder


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        (("clip=none,norm,value", "seed=0,1,2,3", "data.batch_size=64"), [64]),
        (("data.batch_size=61,64", "seed=0,1"), [61, 64]),
    ],
)
def test_error_in_all_jobs_rejects_sweep_once(
    tmp_path: Path, given: tuple[str, ...], sizes: list[int]
) -> None:
    done = commands.sweep(
        tmp_path, "-m", *commands.CPU, *given, "data.train_size=60",
        "tracking=none",
    )  # fmt: skip
    assert (done.status, done.out) == (2, "")
    assert done.problems == [
        f"recipe: data.batch_size is {size}, but there are 60 training samples; use "
        "data.batch_size=60 or less"
        for size in sizes
    ]
    assert not list(tmp_path.iterdir())


def test_a_mistake_of_some_jobs_affects_only_those(tmp_path: Path) -> None:
    given = ("data.batch_size=64,60", "data.train_size=60", "tracking=none")
    done = commands.sweep(tmp_path, "-m", *commands.QUICK[:2], *commands.QUICK[3:], *given)
    assert done.status == 1
    states = [("data.batch_size=64", "REFUSED"), ("data.batch_size=60", "FINISHED")]
    assert names_and_states(tmp_path) == states


def test_every_sweep_combination_is_named_run_under_one_parent(swept: Path) -> None:
    parent, children = mlflow_runs(swept)
    names = ["clip=none seed=0", "clip=none seed=1", "clip=norm seed=0", "clip=norm seed=1"]
    assert sorted(children) == names
    assert parent.info.run_name == "clip=none,norm seed=0,1"
    assert {run.info.status for run in (parent, *children.values())} == {"FINISHED"}
    assert names_and_states(swept) == [(name, "FINISHED") for name in names]


def test_each_run_has_the_settings_in_its_name(swept: Path) -> None:
    for name, run in mlflow_runs(swept)[1].items():
        clip, seed = (part.split("=")[1] for part in name.split(" "))
        assert (run.data.params["clip"], run.data.params["seed"]) == (clip, seed)
        assert ("clip.max_norm" in run.data.params) == (clip == "norm")


def test_parent_and_child_runs_are_tagged_with_the_sweep_id(swept: Path) -> None:
    parent, children = mlflow_runs(swept)
    tags = {run.data.tags["recipe.sweep"] for run in (parent, *children.values())}
    assert tags == {sweep_folder(swept).name}
    assert len({run.data.tags["recipe.fingerprint"] for run in children.values()}) == 4
    assert {run.data.tags["recipe.variant"] for run in children.values()} == {
        "baseline", "clip=norm",
    }  # fmt: skip
    for name in children:
        assert f"| {name} | FINISHED | " in parent.data.tags["mlflow.note.content"]


@pytest.mark.integration
def test_last_run_of_a_sweep_is_bit_identical_to_a_single_run(swept: Path, tmp_path: Path) -> None:
    done = commands.spawn(tmp_path, *commands.QUICK, "clip=norm", "seed=1", "tracking=none")
    assert done.status == 0
    (alone,), last = commands.run_dirs(tmp_path), run_folder(swept, "clip=norm seed=1")
    for name in ("model.safetensors", *PICTURES):
        assert (alone / name).read_bytes() == (last / name).read_bytes(), name
    assert numbers(alone) == numbers(last)


def numbers(run: Path) -> list[tuple[int, dict[str, Any]]]:
    """The journal, less what only the clock and the machine decide."""
    return [
        (line["step"], {k: v for k, v in line["metrics"].items()
                        if not k.startswith(("time/", "memory/"))})
        for line in commands.read_lines(run / "metrics.jsonl")
    ]  # fmt: skip


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("clip=none,nrom", "clip=nrom: no such option; did you mean norm?"),
        (
            "clip=none,norm clip.max_norm=2",
            "clip.max_norm=2: clip=none takes no settings; it is a setting of clip=norm; to set "
            "it only for clip=norm, write conf/clip/<name>.yaml with `defaults: [norm, _self_]` "
            "and `max_norm: 2`, and sweep over <name> instead of norm, or use python -m recipe "
            "ablate clip=norm clip.max_norm=2",
        ),
        (
            "clip=none,norm,value clip.max_norm=2",
            "clip.max_norm=2: clip=none takes no settings, clip=value has no setting max_norm; it "
            "is a setting of clip=norm; to set it only for clip=norm, write conf/clip/<name>.yaml "
            "with `defaults: [norm, _self_]` and `max_norm: 2`, and sweep over <name> instead of "
            "norm",
        ),
        (
            "optimizer.lr=interval(0.1,0.2)",
            "optimizer.lr=interval(0.1,0.2): an interval is for python -m recipe search; give "
            "values, or use search instead",
        ),
        (
            "clip=interval(0,1)",
            "clip=interval(0,1): no interval can be given for clip; give values",
        ),
        (
            "optimizer=sgd,adam optimizer.momentum=0.5,0.8",
            "optimizer.momentum=0.5,0.8: optimizer=adam has no setting momentum; it is a setting "
            "of optimizer=sgd; to set it only for optimizer=sgd, write "
            "conf/optimizer/<name>.yaml with `defaults: [sgd, _self_]` and `momentum: ...`, and "
            "sweep over <name> instead of sgd",
        ),
        ("optimizer.lr=0.1,-1", "optimizer.lr: Invalid learning rate: -1; sgd's own is 0.05"),
        (
            "optimizer.lr=0.1,fast",
            "optimizer.lr must be a number, got 'fast'; use 0.05, the default (learning rate, "
            "before any schedule)",
        ),
        ("seed=0,-1", "seed must be greater than or equal to 0, got -1; use 0, the default"),
        ("seed=0,one", "seed must be a whole number, got 'one'; use 0, the default"),
        ("epochs=1,0", "epochs must be greater than 0, got 0; use 12, the default"),
        ("clip=glob(x*)", "clip=glob(x*): matches no option; there are agc, none, norm, value"),
        ("seed=glob(*)", "seed=glob(*): glob(...) chooses options of a group; list the values"),
        ("+clp=none,norm", "+clp=none,norm: no such key; did you mean clip?"),
        *(
            (f"seed=0,1 {text}", f"{text}: it is the same for all jobs; give one value")
            for text in ("hydra/sweeper=every,ablation", "hydra.launcher.workers=1,2")
        ),
    ],
)
def test_one_invalid_value_refuses_the_sweep_before_its_first_run(
    tmp_path: Path, arguments: str, problem: str
) -> None:
    done = commands.run(tmp_path, "-m", *commands.CPU, *arguments.split(" "))
    assert (done.status, done.out, done.err) == (2, "", f"recipe: {problem}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.integration
@pytest.mark.parametrize(("value", "option"), [("2", "norm2"), ("1", "norm")])
def test_existing_option_with_same_value_is_suggested(
    tmp_path: Path, value: str, option: str
) -> None:
    commands.project(
        tmp_path, {"conf/clip/norm2.yaml": "defaults: [norm, _self_]\nmax_norm: 2.0\n"}
    )
    done = commands.run(tmp_path, "-m", "clip=none,norm,value", f"clip.max_norm={value}")
    assert done.status == 2 and done.err.endswith(
        f"; clip={option} already has that value, so leave out clip.max_norm={value} and sweep "
        f"over {option}\n"
    )
    assert len(done.problems) == 1 and "conf/clip/<name>.yaml" not in done.err


FAILS = """
import torch

class Model(torch.nn.Module):
    def __init__(self, fails):
        super().__init__()
        self.fails = fails
        self.linear = torch.nn.Linear(1024, 10)

    def forward(self, images):
        if self.training and self.fails and len(images) > 2:
            raise RuntimeError("it is to fail")
        return self.linear(images.flatten(1))

def model(*, fails: bool):
    return Model(fails)
"""


def test_a_failed_run_affects_no_other(tmp_path: Path) -> None:
    option = "_target_: parts.model\nfails: false\n"
    commands.project(tmp_path, {"parts.py": FAILS, "conf/model/mine.yaml": option})
    done = commands.sweep(
        tmp_path, "-m", *commands.CPU, "trust=[parts]", "data.train_size=100", "epochs=1",
        "model=mine", "model.fails=true,false",
    )  # fmt: skip
    assert (done.status, done.err) == (1, "")
    assert "recipe: model=mine raised RuntimeError: it is to fail after 0 steps" in done.out
    states = {"model.fails=True": "FAILED", "model.fails=False": "FINISHED"}
    assert dict(names_and_states(tmp_path)) == states
    parent, children = mlflow_runs(tmp_path)
    assert {name: run.info.status for name, run in children.items()} == states
    assert parent.info.status == "FAILED"


def test_a_run_that_is_refused_when_it_starts_affects_no_other(tmp_path: Path) -> None:
    done = commands.sweep(
        tmp_path, "-m", *commands.CPU, "model.widths=[4,8]", "epochs=1", "tracking=none",
        "data.train_size=5,100",
    )  # fmt: skip
    assert done.status == 1
    assert names_and_states(tmp_path) == [
        ("data.train_size=5", "REFUSED"), ("data.train_size=100", "FINISHED"),
    ]  # fmt: skip
    assert "recipe: data.train_size must be from 10 " in done.out
    assert len(commands.run_dirs(tmp_path)) == 1


@pytest.mark.long
def test_sweep_values_can_be_given_as_a_range_or_a_glob(tmp_path: Path) -> None:
    done = commands.sweep(
        tmp_path, "-m", *commands.QUICK, "epochs=1", "tracking=none", "seed=range(1,3)",
        "clip=glob(n*)",
    )  # fmt: skip
    assert done.status == 0
    assert [name for name, _ in names_and_states(tmp_path)] == [
        "seed=1 clip=none", "seed=1 clip=norm", "seed=2 clip=none", "seed=2 clip=norm",
    ]  # fmt: skip
