"""A recorded run once more: from its own spec, with what is overridden and nothing else changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import commands
import pytest
import yaml

from recipe.components import device

QUICK = (*commands.QUICK, "tracking=none")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with one run of dropout and a schedule, called `first`."""
    folder = tmp_path_factory.mktemp("replay")
    done = commands.run(
        folder, *QUICK, "model.dropout=0.3", "scheduler=step", "scheduler.step_size=1",
        "data.classes=10", "name=first", "seed=3",
    )  # fmt: skip
    assert done.status == 0, done.err
    return folder


def first(workplace: Path) -> Path:
    return commands.run_dirs(workplace)[0]


def replayed(workplace: Path, *overrides: str, wanted: str = "") -> tuple[str, Path]:
    """What a replay of the first run says of it at its end, and the new run's folder."""
    before = commands.run_dirs(workplace)
    done = commands.run(workplace, "replay", wanted or first(workplace).name, *overrides)
    assert done.status == 0, done.err
    (new,) = set(commands.run_dirs(workplace)) - set(before)
    return done.out.splitlines()[-1], new


def spec(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((run / "spec.yaml").read_text())
    return content


def tags(run: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in commands.read_lines(run / "events.jsonl"):
        found |= line if line["kind"] == "tags" else {}
    return found


def test_replay_is_identical_and_names_its_source_run(workplace: Path) -> None:
    run = first(workplace)
    said, new = replayed(workplace, wanted=run.name[:-2])
    assert said.startswith(f"Replay  of {run.name}: bit-identical: ")
    assert said.endswith("metrics and the weights")
    assert spec(new) == spec(run)
    assert tags(new)["recipe.replay_of"] == run.name
    assert tags(new)["recipe.fingerprint"] == tags(run)["recipe.fingerprint"]


def test_replay_applies_overrides_and_keeps_other_settings(workplace: Path) -> None:
    said, new = replayed(workplace, "seed=4", "scheduler.gamma=0.5", "epochs=1", "name=other")
    again = spec(new)
    assert (again["seed"], again["epochs"], again["name"]) == (4, 1, "other")
    assert again["scheduler"].pop("gamma") == 0.5
    recorded = spec(first(workplace))
    del recorded["scheduler"]["gamma"]
    assert again == {**recorded, "seed": 4, "epochs": 1, "name": "other"}
    assert f"Replay  of {first(workplace).name} with seed=4 scheduler.gamma=0.5 epochs=1" in said
    assert ": differs from step " in said and "seed 3 -> 4" in said


def test_replay_override_takes_menu_option_with_recorded_references(workplace: Path) -> None:
    said, new = replayed(workplace, "model=mlp", "model.hidden=[8]", "clip=norm", "epochs=1")
    again = spec(new)
    assert again["options"]["model"] == "mlp"
    # config.yaml would give auto; the recorded run was told 10 by data.classes
    assert (again["model"]["classes"], again["model"]["hidden"]) == (10, [8])
    assert again["clip"]["max_norm"] > 0
    recorded = spec(first(workplace))
    assert again["scheduler"] == recorded["scheduler"] and again["data"] == recorded["data"]
    assert "model vgg -> mlp, clip none -> norm" in said


@pytest.mark.long
def test_replay_uses_the_recorded_number_of_threads(tmp_path: Path) -> None:
    settings = [s for s in QUICK if not s.startswith("device")]
    assert commands.run(tmp_path, *settings, "device=cpu", "epochs=1").status == 0
    (run,) = commands.run_dirs(tmp_path)
    usual = device.thread_count("auto")
    kept = (run / "environment.txt").read_text()
    assert f"\nthreads: {usual}\n" in kept
    other = kept.replace(f"\nthreads: {usual}\n", f"\nthreads: {usual + 1}\n")
    (run / "environment.txt").write_text(other)
    _, new = replayed(tmp_path, wanted=run.name)
    assert f"\nthreads: {usual + 1}\n" in (new / "environment.txt").read_text()
    _, new = replayed(tmp_path, f"device.threads={usual}", wanted=run.name)
    assert f"\nthreads: {usual}\n" in (new / "environment.txt").read_text()
    (run / "environment.txt").write_text(kept.replace(f"threads: {usual}", "threads: 999999999"))
    _, new = replayed(tmp_path, wanted=run.name)
    assert f"\nthreads: {usual}\n" in (new / "environment.txt").read_text()


def test_replay_reads_and_writes_runs_in_output_dir(workplace: Path, tmp_path: Path) -> None:
    outputs = f"output_dir={workplace / 'outputs'}"
    before = commands.run_dirs(workplace)
    done = commands.run(tmp_path, "replay", first(workplace).name, outputs, "epochs=1")
    assert done.status == 0, done.err
    assert len(commands.run_dirs(workplace)) == len(before) + 1
    assert not (tmp_path / "outputs").exists()


def refused(folder: Path, *arguments: str) -> list[str]:
    """What is told of a replay that leaves nothing behind."""
    before = commands.run_dirs(folder)
    done: commands.Result = commands.run(folder, "replay", *arguments)
    assert (done.status, done.out) == (2, ""), done.out
    assert commands.run_dirs(folder) == before
    return [line.removeprefix("recipe: ") for line in done.problems]


def test_replay_reports_all_override_errors_at_once(workplace: Path) -> None:
    assert refused(
        workplace, first(workplace).name, "optimizer.lrr=1", "sede=2", "clip=nrom", "epochs=0",
        "seed=0,1",
        "experiment=transfer", "hydra.job.name=x", "freeze.names=[a]", "~name",
        "scheduler.gamma=high",
    ) == [
        "seed=0,1: a recorded run takes one value per setting; give one",
        "experiment=transfer: a recorded run has no experiment; give options and settings "
        "themselves",
        "hydra.job.name=x: a recorded run has no hydra; give options and settings themselves",
        "clip=nrom: no such option; did you mean norm?",
        "optimizer.lrr=1: optimizer=sgd has no setting lrr; did you mean lr?",
        "sede=2: no such key; did you mean seed or scheduler?",
        "freeze.names=[a]: freeze=none takes no settings; it is a setting of freeze=by_name and "
        "vgg_first2",
        "~name: a setting can't be removed; give it another value",
        "epochs must be greater than 0, got 0; use 12, the default",
        "scheduler.gamma must be a number, got 'high'; use 0.1, the default (factor of each "
        "reduction)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "replay: which run? Give its id: python -m recipe replay <run id>"),
        (["frist"], "replay: no run 'frist' is recorded in "),
        (["first", "clip=[a"], "clip=[a: can't be read as an override"),
        (["first", "trust=mine"], "trust must be a list, got 'mine'"),
        (["first", "output_dir=1"], "output_dir must be a string, got 1"),
        (["first", "output_dir='~no-one/x'"], "output_dir: '~no-one/x' is no path of this machine"),
        (["first", "tracking.uri=http://a"], "tracking.uri=http://a: tracking=none takes no"),
    ],
)
def test_invalid_replay_arguments_are_rejected(
    arguments: list[str], said: str, workplace: Path
) -> None:
    (problem,) = refused(workplace, *arguments)
    assert problem.startswith(said)


@pytest.fixture
def copied(workplace: Path, tmp_path: Path) -> Path:
    """A recorded run of its own, alone in its outputs."""
    import shutil

    run = tmp_path / "outputs" / "runs" / first(workplace).name
    shutil.copytree(first(workplace), run)
    return run


@pytest.mark.parametrize(
    ("file", "said"),
    [("spec.yaml", ("spec: ", "replay: ")), ("metrics.jsonl", ("replay: ",))],
)  # fmt: skip
@pytest.mark.parametrize("content", ["[", None])
def test_replay_rejects_damaged_record_before_running(
    file: str, said: tuple[str, ...], content: str | None, copied: Path
) -> None:
    (copied / file).unlink()
    if content:
        (copied / file).write_text(f"{content}\n")
    (problem,) = refused(copied.parent.parent.parent, copied.name)
    assert problem.startswith(said) and (file in problem or "stopped before it began" in problem)


def test_untrusted_spec_runs_no_code_and_sends_no_data(copied: Path) -> None:
    folder = copied.parent.parent.parent
    (folder / "evil.py").write_text("open('ran', 'w')\ndef payload(params): ...\n")
    text = (copied / "spec.yaml").read_text()
    (copied / "spec.yaml").write_text(
        text.replace("recipe.components.clip.none.none", "evil.payload").replace(
            "trust: []", "trust: [evil]"
        )
    )
    assert "the package evil isn't trusted" in refused(folder, copied.name)[0]
    assert not (folder / "ran").exists()
    away = text.replace("tracking: none", "tracking: server").replace(
        "  _target_: recipe.components.tracking.none.none",
        "  _target_: recipe.components.tracking.server.server\n  uri: http://example.com\n  "
        "experiment: x",
    )
    (copied / "spec.yaml").write_text(away)
    said = "tracking.uri: 'http://example.com' of this spec is on another machine"
    assert refused(folder, copied.name)[0].startswith(said)
    assert refused(folder, copied.name, "tracking.experiment=y")[0].startswith(said)
    done = commands.run(folder, "replay", copied.name, "tracking=none", "epochs=1")
    assert done.status == 0, done.err


def test_replay_runs_recorded_code_only_if_trusted_again(tmp_path: Path) -> None:
    commands.project(
        tmp_path,
        {
            "conf/clip/mine.yaml": "_target_: mytricks.clip\nfactor: 0.5\n",
            "mytricks.py": "import torch\n"
            "def clip(params, *, factor: float):\n"
            "    return torch.nn.utils.get_total_norm([p.grad for p in params])\n",
        },
    )
    assert commands.run(tmp_path, *QUICK, "clip=mine", "trust=[mytricks]").status == 0
    (run,) = commands.run_dirs(tmp_path)
    assert "the package mytricks isn't trusted" in refused(tmp_path, run.name)[0]
    said, new = replayed(tmp_path, "trust=[mytricks]", wanted=run.name)
    assert "bit-identical" in said and spec(new)["trust"] == ["mytricks"]
    changed = (
        (tmp_path / "mytricks.py")
        .read_text()
        .replace("    return", "    [p.grad.mul_(factor) for p in params]\n    return")
    )
    (tmp_path / "mytricks.py").write_text(changed)
    said, _ = replayed(tmp_path, "trust=[mytricks]", wanted=run.name)
    assert "differs from step 1 on" in said and said.endswith("; code of mytricks changed")


def test_failed_replay_exits_with_1(workplace: Path) -> None:
    done = commands.run(workplace, "replay", first(workplace).name, "optimizer.lr=1e15")
    assert done.status == 1
    assert "lower the learning rate or clip the gradients" in done.err
