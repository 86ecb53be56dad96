import contextlib
import csv
import errno
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import commands
import pytest
import stopped_runs
import torch
from composed_specs import compose_spec
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from PIL import Image
from safetensors.torch import load_file

from recipe.components.tracking.local import database_uri
from recipe.config.groups import GROUPS
from recipe.config.spec import RunSpec
from recipe.errors import RecipeError
from recipe.runner import fingerprint
from recipe.runner.recorder import Recorder
from recipe.training import build
from recipe.training.loop import train

CHOSEN = (
    *commands.QUICK, "freeze=vgg_first2", "scheduler=step", "scheduler.step_size=1", "clip=norm",
    "clip.max_norm=0.5", "seed=3",
)  # fmt: skip
"""100 images in batches of 64 and 36, twice: 4 steps, the learning rate falls after 2."""

FROZEN = ["convolution1_1.weight", "convolution1_1.bias", "convolution1_2.weight",
          "convolution1_2.bias"]  # fmt: skip

NUMBERS = 40 + 8 + 148 + 8 + 296 + 16 + 584 + 16 + 90
"""Weights and biases of the convolutions, each with its normalisation, and of the classifier."""


@dataclass(frozen=True)
class Recorded:
    """A run, what the command said, and what MLflow knows of it."""

    folder: Path
    done: commands.Result
    client: MlflowClient
    run: Run

    def points(self, key: str) -> list[tuple[int, float]]:
        history = self.client.get_metric_history(self.run.info.run_id, key)
        return sorted((point.step, point.value) for point in history)


def recorded(folder: Path, done: commands.Result) -> Recorded:
    """The only run below `folder`."""
    (run,) = commands.run_dirs(folder)
    client = MlflowClient(database_uri(folder / "outputs" / "mlflow.db"))
    found = client.get_run(commands.read_json(run / "sent.json")["mlflow_run_id"])
    return Recorded(run, done, client, found)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("one")
    return recorded(folder, commands.spawn(folder, *CHOSEN))


@pytest.mark.integration
def test_run_finishes_and_prints_the_location_of_its_record(one: Recorded) -> None:
    assert (one.done.status, one.done.err) == (0, "")
    assert one.run.info.status == "FINISHED"
    assert commands.read_json(one.folder / "run.json") == {
        "id": one.folder.name,
        "name": "freeze=vgg_first2 scheduler=step clip=norm",
        "status": "FINISHED",
        "fingerprint": one.run.data.tags["recipe.fingerprint"],
    }
    assert one.run.info.run_name == "freeze=vgg_first2 scheduler=step clip=norm"
    record = f"Record  outputs/runs/{one.folder.name}, in MLflow as {one.run.info.run_id}"
    assert record in one.done.out.splitlines()
    assert "Open    python -m recipe ui" in one.done.out.splitlines()


@pytest.mark.integration
def test_mlflow_parameters_are_options_and_dotted_settings(one: Recorded) -> None:
    found = one.run.data.params
    assert {key: found[key] for key in found if "." not in key} == {
        "device": "cpu", "data": "digits", "model": "vgg", "loss": "cross_entropy",
        "freeze": "vgg_first2", "param_groups": "all", "optimizer": "sgd", "scheduler": "step",
        "clip": "norm", "precision": "fp32", "augment": "none", "average": "none",
        "sampler": "shuffled", "sharpness": "none", "warmup": "none", "evaluation": "plain",
        "stop": "none", "distributed": "ddp", "tracking": "local", "seed": "3", "epochs": "2",
    }  # fmt: skip
    assert found["clip.max_norm"] == "0.5"
    assert found["model.widths"] == "[4, 8]"
    assert found["scheduler.step_size"] == "1"
    assert found["data.train_size"] == "100"
    assert found["model.weights"] == "None"
    content = vars(compose_spec(*CHOSEN))
    settings = {f"{group}.{key}" for group in GROUPS for key in content[group]}
    assert {key for key in found if "." in key} == {
        key for key in settings if not key.endswith("._target_")
    }


@pytest.mark.integration
def test_mlflow_has_exactly_the_expected_metrics_at_global_steps(one: Recorded) -> None:
    every_step = {"train/loss", "train/accuracy", "lr/all", "clip/grad_norm"}
    every_epoch = {
        "val/loss", "val/accuracy", "best/val_accuracy", "best/epoch", "clip/hit_rate",
        "time/epoch_s", "time/samples_per_s", "memory/peak_mb",
    }  # fmt: skip
    verdicts = {
        f"audit/{group}" for group in (
            "loss", "freeze", "param_groups", "optimizer", "scheduler", "clip", "precision",
            "augment", "average", "sampler", "sharpness", "warmup", "evaluation", "stop",
        )
    }  # fmt: skip
    once = {"params/trainable", "params/total", "params/multiply_adds"}
    assert set(one.run.data.metrics) == every_step | every_epoch | verdicts | once
    for key in every_step:
        assert [step for step, _ in one.points(key)] == [1, 2, 3, 4], key
    for key in verdicts:  # after the first two steps and at the end
        assert one.points(key) == [(2, 1.0), (4, 1.0)], key
    for key in every_epoch:
        assert [step for step, _ in one.points(key)] == [2, 4], key


@pytest.mark.integration
def test_recorded_metric_values_are_correct(one: Recorded) -> None:
    assert one.points("params/total") == [(0, NUMBERS)]
    assert one.points("params/trainable") == [(0, NUMBERS - 40 - 148)]
    # weights and biases of two convolutions at 32 x 32 and two at 16 x 16, the head, batch norms
    adds = (40 + 148) * 32**2 + (296 + 584) * 16**2 + 90 + 2 * (4 + 4 + 8 + 8)
    assert one.points("params/multiply_adds") == [(0, adds)]
    assert one.points("lr/all") == [
        (1, 0.05), (2, 0.05), (3, pytest.approx(0.005)), (4, pytest.approx(0.005)),
    ]  # fmt: skip
    above = [norm > 0.5 for _, norm in one.points("clip/grad_norm")]
    assert one.points("clip/hit_rate") == [(2, sum(above[:2]) / 2), (4, sum(above) / 4)]
    accuracy = dict(one.points("val/accuracy"))
    assert dict(one.points("best/val_accuracy")) == {2: accuracy[2], 4: max(accuracy.values())}


@pytest.mark.integration
def test_journal_has_the_same_points_as_mlflow(one: Recorded) -> None:
    journal = {
        (key, line["step"], line["time"], value)
        for line in commands.read_lines(one.folder / "metrics.jsonl")
        for key, value in line["metrics"].items()
    }
    mlflow = {
        (key, point.step, point.timestamp, point.value)
        for key in one.run.data.metrics
        for point in one.client.get_metric_history(one.run.info.run_id, key)
    }
    assert len(journal) == 4 * 4 + 2 * 8 + 2 * 14 + 3
    assert journal == mlflow


@pytest.mark.integration
def test_mlflow_tags_describe_the_run_and_its_environment(one: Recorded) -> None:
    tags = one.run.data.tags
    chosen = compose_spec(*CHOSEN)
    assert tags["recipe.fingerprint"] == fingerprint.compute(chosen, build.build(chosen))
    assert tags["recipe.variant"] == "freeze=vgg_first2 scheduler=step clip=norm"
    assert tags["recipe.run"] == one.folder.name
    assert tags["recipe.device"].endswith("(1 threads)")
    assert tags["version.torch"] == torch.__version__ and tags["version.mlflow"]
    assert "recipe.sweep" not in tags


@pytest.mark.integration
def test_mlflow_note_summarises_the_run(one: Recorded) -> None:
    note = one.run.data.tags["mlflow.note.content"]
    best = 100 * one.run.data.metrics["best/val_accuracy"]
    assert note.startswith(f"## val/accuracy {best:.1f} % at epoch ")
    assert f"`python -m recipe {' '.join(CHOSEN)}`" in note
    assert "| freeze | vgg_first2 | 4 of 18 tensors frozen throughout (188 of 1,206 " in note
    assert "| scheduler | step | lr/all 0.05 to 0.005, changed once |" in note
    assert f"python -m recipe predict run={one.folder.name} " in note


@pytest.mark.integration
def test_git_commit_is_recorded_if_there_is_one(tmp_path: Path) -> None:
    commands.spawn(tmp_path, "init", "-q", program=("git",))
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    commands.spawn(tmp_path, *author, "commit", "-q", "--allow-empty", "-m", "a", program=("git",))
    commit = commands.spawn(tmp_path, "rev-parse", "HEAD", program=("git",)).out.strip()
    run = recorded(tmp_path, commands.run(tmp_path, *commands.QUICK))
    assert len(commit) == 40 and run.run.data.tags["mlflow.source.git.commit"] == commit
    assert f"git: {commit}" in (run.folder / "environment.txt").read_text().splitlines()


@pytest.mark.integration
def test_artifacts_match_design_on_disk_and_in_mlflow(one: Recorded) -> None:
    names = {
        "spec.yaml", "plan.txt", "parameters.csv", "summary.txt", "lr.png", "curves.png",
        "model.safetensors", "environment.txt", "data.json",
    }  # fmt: skip
    listed = {file.path for file in one.client.list_artifacts(one.run.info.run_id)}
    assert listed == names
    assert {path.name for path in one.folder.iterdir()} == names | {
        "run.json", "metrics.jsonl", "events.jsonl", "sent.json", ".lock", ".sending",
        "checkpoints", "result.json",
    }  # fmt: skip
    kept = Path(one.client.download_artifacts(one.run.info.run_id, ""))
    for name in names:
        assert (kept / name).read_bytes() == (one.folder / name).read_bytes()
    assert kept.is_relative_to(one.folder.parent.parent / "mlartifacts")


@pytest.mark.integration
def test_recorded_figures_are_nonempty_png_files(one: Recorded) -> None:
    for name in ("lr.png", "curves.png"):
        with Image.open(one.folder / name) as image:
            image.load()
            assert image.format == "PNG" and min(image.size) > 300
            assert len(image.convert("RGB").getcolors(2**24) or ()) > 10  # lines, not a blank page


@pytest.mark.integration
def test_parameters_csv_lists_rule_group_and_lr_of_every_parameter(one: Recorded) -> None:
    with open(one.folder / "parameters.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 18 and sum(int(row["numbers"]) for row in rows) == NUMBERS
    assert rows[0] == {
        "name": "convolution1_1.weight", "shape": "4x1x3x3", "rule": "", "group": "", "lr": "",
        "weight_decay": "", "trainable": "False", "frozen_epochs": "", "numbers": "36",
    }  # fmt: skip
    assert rows[-1] == {
        "name": "classifier.bias", "shape": "10", "rule": "all", "group": "all", "lr": "0.05",
        "weight_decay": rows[-1]["weight_decay"], "trainable": "True", "frozen_epochs": "0",
        "numbers": "10",
    }  # fmt: skip
    assert [row["name"] for row in rows if row["trainable"] == "False"] == FROZEN


@pytest.mark.integration
def test_recorded_text_files_have_the_expected_content(one: Recorded) -> None:
    plan = (one.folder / "plan.txt").read_text(encoding="utf-8")
    assert "Size: 1,018 of 1,206 parameters trainable" in plan and "Time:" not in plan
    summary = (one.folder / "summary.txt").read_text(encoding="utf-8")
    assert "Total params: 1,206" in summary and "Non-trainable params: 188" in summary
    kept = (one.folder / "environment.txt").read_text(encoding="utf-8").splitlines()
    assert f"torch=={torch.__version__}" in kept and "threads: 1" in kept
    assert f"command: {' '.join(CHOSEN)}" in kept
    facts = commands.read_json(one.folder / "data.json")
    assert facts["classes"] == list("0123456789")
    assert (facts["channels"], facts["size"]) == (1, [32, 32])


@pytest.mark.integration
def test_spec_yaml_is_complete_and_reads_back_equal(one: Recorded) -> None:
    again = RunSpec.from_file(one.folder / "spec.yaml", trust=[])
    assert again == compose_spec(*CHOSEN)
    assert again.to_yaml() == (one.folder / "spec.yaml").read_text(encoding="utf-8")


@pytest.mark.integration
def test_saved_weights_are_from_the_best_epoch(one: Recorded) -> None:
    best = dict(one.points("best/epoch"))[4]
    run = build.build(compose_spec(*CHOSEN))
    assert best == 1  # the point of this test: it isn't the last
    for point in train(run):
        if point.is_epoch_end and point.epoch == best:
            break
    kept, expected = load_file(one.folder / "model.safetensors"), run.model.state_dict()
    assert kept.keys() == expected.keys()
    assert all(torch.equal(kept[name], expected[name]) for name in kept)


@pytest.mark.integration
def test_saved_frozen_layers_are_bit_identical_to_the_initial_ones(one: Recorded) -> None:
    kept = load_file(one.folder / "model.safetensors")
    initial = build.build(compose_spec(*CHOSEN)).model.state_dict()
    weights = [name for name, _ in build.build(compose_spec(*CHOSEN)).model.named_parameters()]
    assert [name for name in weights if torch.equal(kept[name], initial[name])] == FROZEN


def test_overlong_value_is_truncated_in_mlflow_and_complete_on_disk(tmp_path: Path) -> None:
    names = ["convolution1_1.weight"] * 400
    done = commands.run(
        tmp_path, *commands.QUICK, "epochs=1", "freeze=by_name", f"freeze.names=[{','.join(names)}]"
    )
    assert done.status == 0 and "MLflow did not take" not in done.out
    run = recorded(tmp_path, done)
    assert run.run.info.status == "FINISHED"
    assert run.run.data.params["freeze.names"] == str(names)[:6000]
    assert RunSpec.from_file(run.folder / "spec.yaml", trust=[]).freeze["names"] == names
    assert run.run.data.tags["mlflow.note.content"].startswith("## val/accuracy ")


@pytest.mark.integration
@pytest.mark.long
def test_two_runs_can_create_the_database_concurrently(tmp_path: Path) -> None:
    both = [commands.start(tmp_path, *commands.QUICK, f"seed={seed}") for seed in (0, 1)]
    for started in both:
        out, err = started.communicate(timeout=240)
        assert (started.returncode, err) == (0, "") and "MLflow did not take" not in out
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    found = client.search_runs(["1"])
    assert sorted(run.data.params["seed"] for run in found) == ["0", "1"]
    assert [run.info.status for run in found] == ["FINISHED", "FINISHED"]


@pytest.mark.integration
def test_run_without_a_reachable_server_finishes_and_reports_it(tmp_path: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    done = commands.spawn(
        tmp_path, *commands.QUICK, "tracking=server", f"tracking.uri=http://127.0.0.1:{port}",
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
    )  # fmt: skip
    assert done.status == 0
    (last,) = done.out.splitlines()[-1:]
    assert last.startswith("MLflow did not take all of it (") and f"127.0.0.1:{port}" in last
    assert "; python -m recipe sync sends what is left, lines: 15 of events.jsonl and 9 of " in last
    assert last.endswith("9 of metrics.jsonl); the complete record is on disk.")
    (run,) = commands.run_dirs(tmp_path)
    assert commands.read_json(run / "run.json")["status"] == "FINISHED"
    assert (run / "model.safetensors").is_file() and "Open " not in done.out


@pytest.mark.long
def test_failed_run_reports_incomplete_mlflow_upload(tmp_path: Path) -> None:
    stopped_runs.project(tmp_path)
    (tmp_path / "signals").write_text("2 error")
    to = ("tracking=server", "tracking.uri=http://127.0.0.1:9")
    done = commands.run(tmp_path, *stopped_runs.SMALL, *to)
    assert (done.status, done.err) == (1, "recipe: it is to fail\n")
    assert done.out.splitlines()[-1].startswith("MLflow did not take all of it (")
    assert "python -m recipe sync sends what is left" in done.out.splitlines()[-1]


def test_record_without_tracking_is_only_on_disk(tmp_path: Path) -> None:
    done = commands.run(tmp_path, *commands.QUICK, "tracking=none")
    (run,) = commands.run_dirs(tmp_path)
    information: dict[str, Any] = commands.read_json(run / "run.json")
    assert information["status"] == "FINISHED"
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {"runs", "fingerprints"}
    assert "MLflow" not in done.out and "recipe ui" not in done.out


@pytest.mark.integration
def test_working_directory_name_may_contain_special_characters(tmp_path: Path) -> None:
    folder = tmp_path / "a?b 50%25 c#d 'e\"f&g=h"
    folder.mkdir()
    found = recorded(folder, commands.spawn(folder, *commands.QUICK, "epochs=1"))
    assert f"in MLflow as {found.run.info.run_id}" in found.done.out
    assert found.client.list_artifacts(found.run.info.run_id)
    assert (folder / "outputs" / "mlflow.db").is_file()
    assert list(tmp_path.iterdir()) == [folder]
    assert [path.name for path in folder.iterdir()] == ["outputs"]
    assert commands.run(folder, "sync").out == "MLflow has all of 1 run that ended\n"


def test_disk_error_is_reported_with_remedy(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    recorder = Recorder(tmp_path / "outputs", "short")
    with pytest.raises(RecipeError, match=r"No space left on device; make room, then start it ag"):
        recorder.write_file("spec.yaml", fail)
    recorder.close("FAILED")
    recorder = Recorder(tmp_path / "outputs", "short")
    recorder.log_text("spec.yaml", "")
    with pytest.raises(
        RecipeError, match=rf"then python -m recipe resume {recorder.run_id} output_d"
    ):
        recorder.write_file("lr.png", fail)
    recorder.close("FAILED")
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match=r": Not a directory; give another output_dir$"):
        Recorder(tmp_path / "file", "short")
