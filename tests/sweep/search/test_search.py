"""A search by Optuna: what is tried, what counts as a trial's value, what is pruned and what goes
on."""

from __future__ import annotations

import io
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import commands
import optuna
import pytest
from mlflow.tracking import MlflowClient
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from rich.console import Console
from small_searches import LITTLE, PARTS
from sweep_records import sweep_folder

from recipe.config import compose
from recipe.runner.signals import RunPruned
from recipe.store import run_dirs, sweep_jobs
from recipe.sweep.plan import find_shared_problems
from recipe.sweep.search import arguments, dimension, plan, study
from recipe.training.loop import MetricsEvent

WHOLE = ("pruner=none", "sampler=random", "tracking=none")


def load_study(folder: Path) -> optuna.Study:
    there = study.open_storage(None, folder / "outputs")
    return optuna.load_study(study_name=f"recipe-{sweep_folder(folder).name}", storage=there)


def last(folder: Path, ended: sweep_jobs.JobResult, metric: str = "val/accuracy") -> float:
    lines = commands.read_lines(folder / "outputs/runs" / str(ended.run) / "metrics.jsonl")
    values: list[float] = [x["metrics"][metric] for x in lines if metric in x["metrics"]]
    return values[-1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return commands.project(tmp_path, PARTS)


def test_a_trial_is_run_for_every_seed_and_its_value_is_the_mean(folder: Path) -> None:
    typed = (*LITTLE, "clip.factor=0.0,2.0", "seed=4,7", "trials=5", *WHOLE)
    done = commands.run(folder, "search", *typed)
    assert done.status == 0, done.err
    ended, about = (
        sweep_jobs.read_results(sweep_folder(folder)),
        commands.read_json(sweep_folder(folder) / "sweep.json"),
    )
    # two different settings, each run once for each seed, however often they are sampled
    assert (
        sorted(text for text, _ in about["planned"])
        == ["clip.factor=0.0"] * 2 + ["clip.factor=2.0"] * 2
    )
    assert len(ended) == about["jobs"] == len(commands.run_dirs(folder)) == 4
    means = {}
    for swept, seed in about["planned"]:
        assert seed in ("seed=4", "seed=7")
        alike = [e for e in ended if about["planned"][e.number][0] == swept]
        means[swept] = sum(last(folder, each) for each in alike) / 2
    trials = load_study(folder).trials
    assert [t.state.name for t in trials] == ["COMPLETE"] * 5
    assert [t.value for t in trials] == [means[f"clip.factor={t.params['clip.factor']}"]
                                         for t in trials]  # fmt: skip
    assert "Trials  5 of 5: 5 completed, of 2 different settings" in done.out
    best = max(means.values())
    assert f": val/accuracy {100 * best:.2f} % (mean of 2 seeds, 95 % interval " in done.out
    assert "Caution that is the best of 5 completed trials, chosen by the same" in done.out
    # the printed command runs that trial
    (line,) = [x for x in done.out.splitlines() if x.startswith("Run it  python -m recipe -m ")]
    pasted = commands.run(folder, *shlex.split(line.removeprefix("Run it  python -m recipe ")))
    assert pasted.status == 0 and pasted.out.count("finished before, as ") == 2


@pytest.mark.long
def test_the_same_command_with_more_trials_resumes_and_runs_nothing_twice(folder: Path) -> None:
    typed = (*LITTLE, "optimizer.lr=tag(log, interval(0.001, 0.1))", *WHOLE)
    assert commands.run(folder, "search", *typed, "trials=2").status == 0
    before = commands.run_dirs(folder)
    more = commands.run(folder, "search", *typed, "trials=3")
    assert more.status == 0 and f"resuming {sweep_folder(folder).name}" in more.out
    assert commands.run_dirs(folder)[:2] == before and len(commands.run_dirs(folder)) == 3
    values = [trial.params["optimizer.lr"] for trial in load_study(folder).trials]
    assert len(set(values)) == 3 and all(0.001 <= value <= 0.1 for value in values)


@pytest.mark.integration
@pytest.mark.long
def test_same_command_completes_search_after_worker_is_killed(folder: Path) -> None:
    typed = (
        *LITTLE, "clip.factor=range(11, 15)", "trials=6", *WHOLE, "hydra.launcher.workers=2",
    )  # fmt: skip
    (folder / "kill").touch()
    done = commands.spawn(folder, "search", *typed)
    assert done.status == 1, done.err
    assert "by SIGKILL; alone: python -m recipe device=cpu" in done.out
    killed = [t.number for t in load_study(folder).trials if not t.state.is_finished()]
    assert {load_study(folder).trials[n].params["clip.factor"] for n in killed} == {13}
    others = {
        e.run for e in sweep_jobs.read_results(sweep_folder(folder)) if e.status == "FINISHED"
    }
    again = commands.spawn(folder, "search", *typed)
    assert again.status == 0, again.err
    assert [t.state.name for t in load_study(folder).trials] == ["COMPLETE"] * 6
    # one run is resumed, and none of the others is run again
    assert len(commands.run_dirs(folder)) == len(others) + 1
    assert {each.run for each in sweep_jobs.read_results(sweep_folder(folder))} > others


@pytest.mark.integration
@pytest.mark.long
def test_the_same_command_resumes_a_killed_search(folder: Path) -> None:
    typed = (
        *LITTLE, "clip.factor=range(11, 15)", "seed=0,1", "trials=6", *WHOLE,
        "hydra/launcher=basic",
    )  # fmt: skip
    (folder / "kill").touch()
    done = commands.spawn(folder, "search", *typed)
    assert done.status == -signal.SIGKILL
    (killed,) = [t for t in load_study(folder).trials if not t.state.is_finished()]
    assert killed.params == {"clip.factor": 13}
    before = commands.run_dirs(folder)
    again = commands.run(folder, "search", *typed)
    assert again.status == 0, again.err
    assert f"resuming {sweep_folder(folder).name}" in again.out
    trials = load_study(folder).trials
    assert [t.state.name for t in trials] == ["COMPLETE"] * 6
    # the killed run is resumed, and none is run twice
    assert commands.run_dirs(folder)[: len(before)] == before
    assert len(commands.run_dirs(folder)) == 2 * len({t.params["clip.factor"] for t in trials})


@pytest.mark.integration
@pytest.mark.long
def test_submitit_launches_a_batch_of_jobs_at_a_time(folder: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    typed = (
        *LITTLE, "clip.factor=interval(1, 2)", "trials=4", "startup=2", "batch=2", "pruner=none",
        "tracking=none", "hydra/launcher=submitit_local",
    )  # fmt: skip
    done = commands.spawn(folder, "search", *typed)
    assert done.status == 0, done.err
    trials = load_study(folder).trials
    assert [t.state.name for t in trials] == ["COMPLETE"] * 4
    batch = "2 jobs are drawn and handed out together, before any has ended"
    assert f"Sampler   tpe, after 2 at random; {batch}" in done.out
    first, second = trials[:2], trials[2:]
    begun, ended = [t.datetime_start for t in second], [t.datetime_complete for t in first]
    assert all(b and e and b > e for b in begun for e in ended)
    assert len(commands.run_dirs(folder)) == 4


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trials of which one has its gradients turned round."""
    folder = commands.project(tmp_path_factory.mktemp("pruned"), PARTS)
    typed = (
        *LITTLE, "optimizer.lr=0.5", "clip.factor=interval(-1, 1)", "seed=0,1", "trials=6",
        "sampler=random", "startup=2", "warmup=0", "metric=val/loss",
    )  # fmt: skip
    done = commands.run(folder, "search", *typed)
    assert done.status == 0, done.err
    return folder


def test_a_pruned_run_is_shown_as_pruned_and_counted_nowhere(pruned: Path) -> None:
    states = [t.state.name for t in load_study(pruned).trials]
    assert set(states) == {"COMPLETE", "PRUNED"}
    cut = [
        each for each in sweep_jobs.read_results(sweep_folder(pruned)) if each.status == "PRUNED"
    ]
    assert len(cut) == states.count("PRUNED")
    # of a pruned trial the second seed isn't run
    assert len(commands.run_dirs(pruned)) == 2 * states.count("COMPLETE") + len(cut)
    client = MlflowClient(f"sqlite:///{pruned}/outputs/mlflow.db")
    parents = set()
    for each in cut:
        folder = pruned / "outputs" / "runs" / str(each.run)
        info = run_dirs.read_info(folder, "run")
        assert info.status == "PRUNED"
        assert commands.read_lines(folder / "events.jsonl")[-1]["status"] == "PRUNED"
        there = client.get_run(str(info.mlflow_run_id))
        assert there.info.status == "KILLED"
        assert there.data.tags["recipe.pruned"] == each.problem
        parents.add(there.data.tags["mlflow.parentRunId"])
    (parent,) = parents
    assert client.get_run(parent).info.status == "FINISHED"
    shown = commands.run(pruned, "status", sweep_folder(pruned).name).out
    assert f"{len(cut)} pruned" in shown
    shown = commands.run(pruned, "status").out  # which lists the runs that aren't done
    assert f"{len(cut)} PRUNED" in shown and str(cut[0].run) not in shown
    compared = commands.run(pruned, "compare").out
    assert f"{len(cut)} job{'s' * (len(cut) > 1)} left out: pruned" in compared


def test_a_pruned_run_is_never_resumed(pruned: Path) -> None:
    cut = next(
        each for each in sweep_jobs.read_results(sweep_folder(pruned)) if each.status == "PRUNED"
    )
    done = commands.run(pruned, "resume", str(cut.run))
    assert done.status == 2 and "was pruned by a search" in done.err
    text = commands.read_json(sweep_folder(pruned) / "sweep.json")["planned"][cut.number]
    alone = commands.run(pruned, *LITTLE, "optimizer.lr=0.5", *text)
    assert alone.status == 0 and "Resumes " not in alone.out
    assert "epoch 1/3" in alone.out and "epoch 3/3" in alone.out


def watch(folder: Path, curves: Sequence[Sequence[float]], **settings: Any) -> Any:
    """The pruning callback of the next trial, after completed ones with these curves."""
    there = study.open_storage(None, folder / "outputs")
    made = optuna.create_study(study_name="recipe-one", storage=there, direction="maximize")
    for curve in curves:
        trial = made.ask()
        for epoch, value in enumerate(curve, 1):
            trial.report(value, epoch)
        made.tell(trial, curve[-1])
    made.ask()
    search = {"storage": None, "metric": "val/accuracy", "pruner": "median", "startup": 3,
              "warmup": 1, **settings}  # fmt: skip
    about = {"search": search, "planned": [["a=1", "seed=3"]] * 9, "seeds": ["seed=3", "seed=4"],
             "trials": list(range(9))}  # fmt: skip
    console = Console(file=io.StringIO())
    return study.make_pruning_callback(
        folder / "outputs/sweeps/one", about, len(curves), 4, console
    )


def after(epoch: int, value: float, ends: bool = True) -> MetricsEvent:
    return MetricsEvent(epoch * 2, epoch, {"val/accuracy": value}, is_epoch_end=ends)


def test_a_run_is_pruned_after_the_epoch_in_which_it_is_below_the_median(tmp_path: Path) -> None:
    curves = [[0.1, 0.5, 0.6, 0.9], [0.2, 0.6, 0.7, 0.9], [0.3, 0.7, 0.8, 0.9]]
    see = watch(tmp_path, curves)
    see(after(1, 0.0))  # within the warm-up
    see(after(2, 0.0, ends=False))  # a step of epoch 2
    see(after(2, 0.6))  # the median of 0.5, 0.6 and 0.7
    with pytest.raises(RunPruned, match=r"after epoch 3 of 4: val/accuracy 0.65 is worse than"):
        see(after(3, 0.65))  # that of 0.6, 0.7 and 0.8 is 0.7


def test_no_run_is_pruned_before_startup_trials_are_complete_nor_after_its_last_epoch(
    tmp_path: Path,
) -> None:
    curves = [[0.1, 0.5, 0.6, 0.9], [0.2, 0.6, 0.7, 0.9]]
    see = watch(tmp_path, curves)
    for epoch in (1, 2, 3, 4):
        see(after(epoch, 0.0))
    (tmp_path / "other").mkdir()
    see = watch(tmp_path / "other", [*curves, [0.3, 0.7, 0.8, 0.9]])
    see(after(4, 0.0))


def test_training_continues_with_a_caution_when_the_storage_is_gone(tmp_path: Path) -> None:
    see = watch(tmp_path, [])
    (tmp_path / "outputs" / "search.db").unlink()
    see(after(1, 0.5))
    assert "epoch 1 is not reported to the search" in see.console.file.getvalue()


def test_only_the_run_of_the_first_seed_can_be_pruned(tmp_path: Path) -> None:
    about = {"search": {"pruner": "median"}, "planned": [["a=1", "seed=4"]],
             "seeds": ["seed=3", "seed=4"], "trials": [0]}  # fmt: skip
    assert study.make_pruning_callback(tmp_path, about, 0, 4, Console()) is None


@pytest.mark.parametrize(
    ("typed", "expected", "ends"),
    [
        ("clip=none,norm", CategoricalDistribution(["none", "norm"]), ["clip=none", "clip=norm"]),
        (
            "optimizer.lr=tag(log, interval(1e-4, 0.1))",
            FloatDistribution(1e-4, 0.1, log=True),
            ["optimizer.lr=0.0001", "optimizer.lr=0.1"],
        ),
        ("a=int(interval(1, 8))", FloatDistribution(1, 8), ["a=1", "a=8"]),
        ("a=tag(int, interval(1, 8))", IntDistribution(1, 8), ["a=1", "a=8"]),
        ("a=range(1, 9, 3)", IntDistribution(1, 7, step=3), ["a=1", "a=7"]),
        ("a=tag(log, range(1, 9))", IntDistribution(1, 8, log=True), ["a=1", "a=8"]),
        ("a=range(0.0, 1.0, 0.25)", FloatDistribution(0, 0.75, step=0.25), ["a=0.0", "a=0.75"]),
    ],
)
def test_overrides_in_hydras_grammar_become_distributions(
    typed: str, expected: BaseDistribution, ends: list[str]
) -> None:
    (override,) = compose.parse_overrides([typed])
    found = dimension.parse_dimension(override)
    if typed.startswith("a=int("):
        expected = IntDistribution(1, 8)
    assert (study.to_distribution(found), found.boundary_overrides) == (expected, ends)


REFUSED = {
    (): ["search: there is nothing to search; give a setting several values or an interval, such"],
    (
        "optimizer.lr=interval(0.1, 0.01)", "optimizer.weight_decay=tag(log, interval(0, 1))",
        "optimizer.momentum=tag(lag, interval(0.1, 0.2))", "optimizer.lrr=interval(0.1, 1)",
        "clip=interval(0, 1)", "scheduler=constant,stp", "average=choice(none)", "loss=mse_one_hot",
        "loss=cross_entropy,label_smoothing", "seed=interval(0, 9)", "output_dir=a,b",
        "metric=val/acuracy", "trials=0", "trails=3", "startup=3,4", "sampler=tpa", "pruner=mean",
        "storage=redis://h/1",
    ): [
        "trails=3: search has no such argument; did you mean trials?",
        "loss is given 2 times; give it once",
        "seed=interval(0, 9): seeds are repeats of a trial and never searched; give them, seed=0,",
        "optimizer.lr=interval(0.1, 0.01): from 0.1 to 0.01 is no interval; give the lower end",
        "by ratios (tag log) it must begin above 0, got 0",
        "optimizer.momentum=tag(lag, interval(0.1, 0.2)): tag lag means nothing here; there are ",
        "clip=interval(0, 1): name the options, clip=<one>,<other>",
        "average=choice(none): there is nothing to choose from; give two values at least",
        "output_dir=a,b: output_dir changes no number of a run; give one value",
        "startup=3,4: give one value",
        "scheduler=stp: no such option; did you mean step?",
        "has no setting lrr; did you mean lr?",
        "metric=val/acuracy: no such metric; did you mean val/accuracy",
        "sampler=tpa: no such sampler; did you mean tpe?",
        "pruner=mean: no such pruner; did you mean median?",
        "trials must be a whole number of at least 1, got 0",
        "storage=redis://h/1: write postgresql://<host>/<database>, or leave it out for sqlite",
    ],
    ("optimizer.lr=interval(-0.1, 0.1)",): ["optimizer.lr: Invalid learning rate: -0.1"],
    ("optimizer.lr=interval(0.01,0.1)", "data.train_size=60", "data.batch_size=64", "yes=true"): [
        "data.batch_size is 64, but there are 60 training samples"
    ],
    ("clip=none,norm", "metric=time/epoch_s"): ["metric=time/epoch_s: no such metric; there are "],
    ("loss=glob(*)", "metric=val/loss"): ["values of different losses can't be compared"],
    ("clip=none,norm", "hydra/sweeper=basic"): ["hydra/sweeper=basic: search is hydra/sweeper=sea"],
    ("clip=none,norm", "storage=postgresql://ann:s3cret@host/db"): [
        "storage: the address has a user or a password in it; set PGUSER and PGPASSWORD in the"
    ],
    ("clip=none,norm", "storage=postgresql://host/db?password=s3cret"): [
        "storage: the address has a user or a password in it; set PGUSER and PGPASSWORD in the"
    ],
}  # fmt: skip


@pytest.mark.parametrize(("typed", "problems"), REFUSED.items())
def test_all_mistakes_are_reported_before_the_first_run(
    tmp_path: Path, typed: tuple[str, ...], problems: list[str]
) -> None:
    done = commands.run(tmp_path, "search", *commands.CPU, *typed)
    assert done.status == 2 and not (tmp_path / "outputs").exists()
    assert [[part for part in problems if part in line] for line in done.problems] == [
        [part] for part in problems
    ], done.err
    assert "s3cret" not in done.out + done.err


@pytest.mark.parametrize(
    "searched",
    [
        ("data.batch_size=range(40,100)", "data.train_size=60"),
        ("data.batch_size=64,80", "data.train_size=60,100"),
        ("data.batch_size=64", "data.train_size=range(50,70)", "clip=none,norm"),
    ],
)
def test_a_mistake_of_some_searched_values_does_not_refuse_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searched: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = ("hydra/sweeper=search", *commands.CPU, *LITTLE[2:4], *searched)
    planned = plan.plan_search(arguments.parse_arguments(compose.parse_overrides(typed)))
    with compose.composition_context():
        assert find_shared_problems(planned) == []


@pytest.mark.parametrize(
    ("text", "middle"),
    [
        ("optimizer.lr=interval(0.1,0.3)", "optimizer.lr=0.2"),
        ("optimizer.lr=tag(log,interval(0.01,1))", "optimizer.lr=0.1"),
        ("epochs=range(1,9,3)", "epochs=4"),
        ("epochs=tag(int,interval(1,4))", "epochs=2"),
        ("clip=none,norm,agc", "clip=norm"),
    ],
)
def test_the_middle_of_a_dimension_is_a_valid_value(text: str, middle: str) -> None:
    assert dimension.parse_dimension(compose.parse_override(text)).middle_override == middle


def test_an_unreachable_storage_is_reported_and_nothing_runs(tmp_path: Path) -> None:
    typed = ("clip=none,norm", "storage=postgresql://127.0.0.1:1/none")
    done = commands.run(tmp_path, "search", *LITTLE[:-1], *typed)
    assert done.status == 2 and "storage=postgresql://127.0.0.1:1/none: connection to" in done.err
    assert not commands.run_dirs(tmp_path)
