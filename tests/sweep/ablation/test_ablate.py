import contextlib
import io
import os
import pty
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import commands
import pytest
import stopped_runs
from hydra.core.singleton import Singleton
from mlflow.tracking import MlflowClient

from recipe.cli import main
from recipe.config import compose
from recipe.sweep import hydra_plugins

TINY = (*commands.CPU, "data.train_size=50", "data.batch_size=25", "epochs=1", "model.widths=[4,8]")

QUIET = (*TINY, "tracking=none")

BITES = ("clip=norm", "clip.max_norm=0.1")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def plan_lines(
    folder: Path, *arguments: str, answer: str = "n\n", patch: pytest.MonkeyPatch
) -> list[str]:
    """The lines shown on a terminal where `answer` is typed, with single blanks."""
    patch.setenv("COLUMNS", "200")
    patch.setattr(sys, "stdin", Terminal(answer))
    shown = Terminal()
    with contextlib.chdir(folder), contextlib.redirect_stdout(shown):
        status = main.run_command_line(["ablate", *arguments])
    assert status == 0, shown.getvalue()
    return [" ".join(line.split()) for line in shown.getvalue().splitlines()]


def about(folder: Path) -> dict[str, Any]:
    (sweep,) = (folder / "outputs" / "sweeps").glob("*")
    found: dict[str, Any] = commands.read_json(sweep / "sweep.json")
    return found


def ended(folder: Path) -> list[dict[str, Any]]:
    (sweep,) = (folder / "outputs" / "sweeps").glob("*")
    return commands.read_lines(sweep / "jobs.jsonl")


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ablated")
    done = commands.sweep(folder, "ablate", *TINY, *BITES, "freeze=vgg_first2", "seed=range(2)")
    assert done.status == 0, done.err
    assert "Proceed?" not in done.out
    return folder


NAMES = ["baseline", "freeze=vgg_first2", "clip=norm", "freeze=vgg_first2 clip=norm"]


def test_ablation_runs_each_trick_alone_and_left_out_for_each_seed(ablated: Path) -> None:
    recorded = about(ablated)
    names = [f"{name} seed={seed}" for seed in (0, 1) for name in NAMES]
    assert [(each["name"], each["status"]) for each in ended(ablated)] == [
        (name, "FINISHED") for name in names
    ]
    assert (
        recorded["variants"] == NAMES * 2 and recorded["plan"] == "both" and recorded["jobs"] == 8
    )
    on, off = ["clip=norm", "clip.max_norm=0.1"], ["clip=none"]
    block = [["freeze=none", *off], ["freeze=vgg_first2", *off],
             ["freeze=none", *on], ["freeze=vgg_first2", *on]]  # fmt: skip
    assert recorded["planned"] == [[*texts, f"seed={seed}"] for seed in (0, 1) for texts in block]
    typed = ["ablate", *TINY, *BITES, "freeze=vgg_first2", "seed=range(2)"]
    assert recorded["command"] == [*typed, "hydra/launcher=basic"]
    tricks = [(t["group"], t["option"], t["overrides"]) for t in recorded["tricks"]]
    assert tricks == [
        ("freeze", "vgg_first2", ["freeze=vgg_first2"]), ("clip", "norm", on),
    ]  # fmt: skip


def test_each_run_has_the_settings_and_the_tag_of_its_variant(ablated: Path) -> None:
    client = MlflowClient(f"sqlite:///{ablated}/outputs/mlflow.db")
    found = client.search_runs(["1"])
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.run_name == "ablate freeze=vgg_first2 clip=norm seed=0,1"
    runs = {run.info.run_name: run.data for run in found if run is not parent}
    assert set(runs) == {f"{name} seed={seed}" for seed in (0, 1) for name in NAMES}
    for name, data in runs.items():
        variant, _, seed = str(name).rpartition(" seed=")
        assert (data.tags["recipe.variant"], data.params["seed"]) == (variant, seed)
        chosen = {"freeze": "none", "clip": "none"} | dict(
            text.split("=") for text in variant.split() if text != "baseline"
        )
        assert {group: data.params[group] for group in chosen} == chosen
        assert data.params.get("clip.max_norm") == ("0.1" if "clip" in variant else None)


def test_recorded_runs_are_not_run_again_by_another_plan(
    ablated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the same runs in other words: an option with another name, a setting that only affects speed
    commands.project(tmp_path, {"conf/clip/mine.yaml": "defaults: [norm, _self_]\n"})
    bites = ("clip=mine", "clip.max_norm=0.1")
    shutil.copytree(ablated / "outputs" / "runs", tmp_path / "outputs" / "runs")
    shutil.copytree(ablated / "outputs" / "fingerprints", tmp_path / "outputs" / "fingerprints")
    before = commands.run_dirs(tmp_path)
    lines = plan_lines(
        tmp_path, *QUIET, *bites, "freeze=vgg_first2", "freeze.cache=off", "seed=0,1",
        "plan=leave_one_out", "yes=true", answer="", patch=monkeypatch,
    )  # fmt: skip
    assert "Recorded 6" in lines
    assert commands.run_dirs(tmp_path) == before
    assert len([line for line in lines if line.startswith("finished before, as ")]) == 6
    assert "Time none, all of it is recorded" in lines


def test_ablation_plan_ignores_recorded_runs_without_fingerprints(
    ablated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ablated / "outputs" / "runs", tmp_path / "outputs" / "runs")  # and no marks
    lines = plan_lines(tmp_path, *QUIET, *BITES, "seed=0,1", patch=monkeypatch)
    assert "clip=norm clip=norm clip.max_norm=0.1 0 of 2 seeds" in lines and "Recorded 0" in lines


def test_the_plan_shows_recorded_runs_and_the_remaining_time(
    ablated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = sorted(ablated.rglob("*"))
    lines = plan_lines(
        ablated, *TINY, *BITES, "scheduler=step", "scheduler.step_size=1", "seed=0,1,2",
        "plan=add_one", patch=monkeypatch,
    )  # fmt: skip
    assert "baseline scheduler=constant clip=none 2 of 3 seeds" in lines
    assert "scheduler=step scheduler=step scheduler.step_size=1 clip=none 0 of 3 seeds" in lines
    assert "clip=norm scheduler=constant clip=norm clip.max_norm=0.1 2 of 3 seeds" in lines
    assert f"In all {' '.join(TINY)}" in lines
    assert "Jobs 9 runs, seed by seed (seed 0, 1, 2)" in lines and "Recorded 4" in lines
    (time,) = [line for line in lines if line.startswith("Time ")]
    assert "for 5 runs one after another" in time
    few = "Verdicts take 7 seeds where 2 tricks do something, and 3 are planned (what is recorded"
    assert any(few in line for line in lines)
    assert "8 recorded runs of this model, data and epochs, 4 of them of these variants" in time
    assert sorted(ablated.rglob("*")) == there  # "n": nothing was written

    lines = plan_lines(ablated, *TINY, *BITES, "epochs=2", patch=monkeypatch)
    assert "baseline clip=none 0 of 1 seed" in lines
    assert any(line.startswith("Time not known: no finished run of this") for line in lines)


EXPERIMENT = """\
# @package _global_
# Two tricks with settings of their own.
defaults:
  - override /clip: norm
  - override /scheduler: step
clip: {max_norm: 0.5}
scheduler: {step_size: 3, per: step}
"""


def test_tricks_of_an_experiment_file_are_included_with_their_settings(tmp_path: Path) -> None:
    # a user's file of the same name does not replace the sweeper
    files = {
        "conf/experiment/mine.yaml": EXPERIMENT,
        "conf/hydra/sweeper/ablation.yaml": "_target_: os.abort\n",
    }
    commands.project(tmp_path, files)
    done = commands.sweep(
        tmp_path, "-m", "hydra/sweeper=ablation", *QUIET, "experiment=mine",
        "hydra.sweeper.plan=leave_one_out",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert about(tmp_path)["planned"] == [
        ["scheduler=step", "clip=norm", "seed=0"],
        [
            "scheduler=constant",
            "scheduler.per=epoch",
            "~scheduler.step_size",
            "clip=norm",
            "seed=0",
        ],
        ["scheduler=step", "clip=none", "~clip.max_norm", "seed=0"],
    ]
    assert [each["status"] for each in ended(tmp_path)] == ["FINISHED"] * 3


def test_trick_resolving_to_baseline_spec_is_omitted_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = "# None under another name.\n_target_: recipe.components.clip.none.none\n"
    commands.project(tmp_path, {"conf/clip/idle.yaml": same})
    lines = plan_lines(
        tmp_path, *QUIET, "clip=norm,idle", "seed=range(3)", "plan=add_one", patch=monkeypatch
    )
    assert "Left out clip=idle: resolves to the same spec as baseline, which is run once" in lines
    assert "Jobs 6 runs, seed by seed (seed 0, 1, 2)" in lines
    done = commands.sweep(tmp_path, "ablate", *QUIET, "clip=idle")
    assert (done.status, done.problems) == (2, [
        "recipe: clip=idle: resolves to the same spec as baseline, which is run once; there is "
        "nothing to compare"
    ])  # fmt: skip
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        (
            "clip=none",
            [
                "ablate: every group is off (sampler=shuffled, freeze=none, param_groups=all, "
                "sharpness=none, scheduler=constant, warmup=none, clip=none, precision=fp32, "
                "augment=none, average=none, evaluation=plain, stop=none), so there is nothing to "
                "compare; choose tricks, such as: python -m recipe ablate clip=norm "
                "scheduler=step 'seed=range(7)'"
            ],
        ),
        (
            "clip=nrom plan=bth yes=3 optimizer.lr=fast seed=0,-1",
            [
                "clip=nrom: no such option; did you mean norm?",
                "yes must be true or false, got 3 (whether to start without asking)",
                "plan=bth: no such plan; did you mean both?",
                "optimizer.lr must be a number, got 'fast'; use 0.05, the default (learning "
                "rate, before any schedule)",
                "seed must be greater than or equal to 0, got -1; use 0, the default",
            ],
        ),
        (
            "clip=norm optimizer.lr=0.1,0.01 paln=both",
            [
                "paln=both: ablate has no such argument; did you mean plan?",
                "optimizer.lr=0.1,0.01: an ablation varies tricks, on and off, and the seed; give "
                "one value, or run every combination with python -m recipe -m device=cpu "
                "tracking=none clip=none,norm device.threads=1 data.train_size=50 "
                "data.batch_size=25 epochs=1 'model.widths=[4,8]' optimizer.lr=0.1,0.01",
            ],
        ),
        (
            "clip=norm clip.max_norm=1,2 plan=add_one",
            [
                "clip.max_norm=1,2: an ablation varies tricks, on and off, and the seed; give one "
                "value",
            ],
        ),
        (
            "clip=norm optimizer.lr=interval(1,2) seed=interval(0,3) yes=true",
            [
                "optimizer.lr=interval(1,2): an interval is for python -m recipe search; give "
                "values, or use search instead",
                "seed=interval(0,3): no interval can be given for seed; give values",
            ],
        ),
        (
            "clip=norm clip=agc seed=0 seed=1 plan=both,factorial",
            [
                "clip=norm, clip=agc: clip is given 2 times; give it once, several as "
                "clip=<one>,<other>",
                "seed=0, seed=1: seed is given 2 times; give it once, several as "
                "seed=<one>,<other>",
                "plan=both,factorial: give one value",
            ],
        ),
        (
            "clip=norm plan=greedy",
            [
                "plan=greedy: no such plan; there are add_one, leave_one_out, both, factorial",
            ],
        ),
        (
            "clip=norm,agc plan=both",
            [
                "clip=norm,agc: plan=both may have every trick on at once, and of clip only one "
                "option can be; choose one, or use plan=add_one or plan=factorial"
            ],
        ),
        (
            "clip=norm,agc,value scheduler=glob(*,exclude=chained) augment=mixup,cutmix,flip_crop "
            "average=ema,swa plan=factorial seed=0,1",
            [
                "plan=factorial: 15 tricks make 384 variants, 768 runs in all, and at most 256 "
                "variants are planned; choose fewer tricks, or use plan=add_one (16 variants)"
            ],
        ),
        ("clip=norm clip.max_norm=-1", [
            "clip.max_norm must be greater than or equal to 0.000001, got -1; use 1.0, the "
            "default (largest total norm; "
            "smaller clips more steps; the trick's source has 20 with norm_type 2)"
        ]),
        (
            "clip=norm scheduler=step optimizer.lr=${clip.max_norm}",
            [
                "clip.max_norm is not given, and optimizer.lr is taken from it; write max_norm in "
                "the file of clip=none, or give +clip.max_norm=<value> (with clip=none only: with "
                "every trick on it holds; give what holds with the trick off too, or leave the "
                "trick out of the ablation)"
            ],
        ),
        (
            "clip=norm hydra/sweeper=basic",
            ["hydra/sweeper=basic: ablate is hydra/sweeper=ablation; leave it out, or use -m"],
        ),
    ],
)  # fmt: skip
def test_invalid_ablations_are_refused_before_the_first_run(
    tmp_path: Path, arguments: str, problems: list[str]
) -> None:
    done = commands.run(tmp_path, "ablate", *QUIET, *arguments.split(" "))
    assert [line.removeprefix("recipe: ") for line in done.problems] == problems
    assert (done.status, done.out, list(tmp_path.iterdir())) == (2, "", [])


def test_hydras_state_can_be_pickled_for_other_processes() -> None:
    compose.register_user_conf()
    hydra_plugins.register()
    state = cloudpickle.loads(cloudpickle.dumps(Singleton.get_state()))
    assert "oc.env" in state["omegaconf_resolvers"]


def on_a_terminal(folder: Path, answer: str, *arguments: str) -> tuple[int, str]:
    """The exit status of a command on a real terminal, and what it showed."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*commands.PROGRAM, "ablate", *arguments], cwd=folder, env=commands.environment(),
        stdin=theirs, stdout=theirs, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the other end is closed: the process has ended
            while part := os.read(ours, 4096):
                shown += part
                if shown.endswith(b"Proceed? [Y/n] "):
                    os.write(ours, answer.encode())
        os.close(ours)
        return process.wait(), shown.decode()


@pytest.mark.integration
@pytest.mark.long
def test_answering_no_on_a_terminal_records_nothing(tmp_path: Path) -> None:
    status, shown = on_a_terminal(tmp_path, "n\n", *QUIET, *BITES)
    assert status == 0 and shown.count("Proceed? [Y/n]") == 1 and "[1/2]" not in shown
    assert list(tmp_path.iterdir()) == []
    status, shown = on_a_terminal(tmp_path, "\n", *QUIET, *BITES)
    assert status == 0 and shown.count("Proceed? [Y/n]") == 1
    assert [each["status"] for each in ended(tmp_path)] == ["FINISHED"] * 2


@pytest.mark.long
def test_the_same_command_resumes_a_stopped_ablation(tmp_path: Path) -> None:
    stopped_runs.project(tmp_path)
    (tmp_path / "signals").write_text("5 SIGINT")
    given = [*stopped_runs.QUIET, "seed=0,1", "plan=add_one"]
    done = commands.sweep(tmp_path, "ablate", *given)
    assert done.status == 130
    again = f"python -m recipe ablate {shlex.join(given)}"
    assert f"1 of 6 runs finished; resume with: {again}" in done.out
    assert "Stopped." in done.out.splitlines() and " resume " not in done.out
    assert [(each["name"], each["status"]) for each in ended(tmp_path)] == [
        ("baseline seed=0", "FINISHED"), ("clip=mine seed=0", "KILLED"),
    ]  # fmt: skip
    done = commands.sweep(tmp_path, "ablate", *given, "yes=true")
    assert done.status == 0
    assert f", resuming {next((tmp_path / 'outputs' / 'sweeps').iterdir()).name}" in done.out
    assert "baseline seed=0\nfinished before" in done.out and "Resumes " in done.out
    states = {each["name"]: each["status"] for each in ended(tmp_path)}
    names = [f"{name} seed={seed}" for name in NAMES_MINE for seed in (0, 1)]
    assert states == dict.fromkeys(names, "FINISHED")
    assert len(commands.run_dirs(tmp_path)) == len(names)


def test_a_signal_in_the_last_step_completes_the_run_and_stops_the_sweep(tmp_path: Path) -> None:
    stopped_runs.project(tmp_path)
    (tmp_path / "signals").write_text("9 SIGINT")
    done = commands.sweep(tmp_path, "-m", *stopped_runs.QUIET, "seed=0,1")
    assert (done.status, done.problems) == (130, ["recipe: interrupted"])
    assert [each["status"] for each in ended(tmp_path)] == ["FINISHED"]
    assert "1 of 2 runs finished; resume with: python -m recipe -m " in done.out
    (tmp_path / "signals").write_text("9 SIGTERM")
    done = commands.sweep(tmp_path, *stopped_runs.QUIET, "seed=1")
    assert done.status == 0 and "val/accuracy" in done.out


NAMES_MINE = ("baseline", "clip=mine", "average=ema")
