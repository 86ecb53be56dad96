import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from recipe.cli.predict import Predictor

TRAINED = (
    *commands.CPU, "data.size=16", "model.widths=[16,32]", "epochs=6", "scheduler=cosine",
    "optimizer.lr=0.1", "name=reader",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one recorded run that reads digits."""
    folder = tmp_path_factory.mktemp("home")
    assert commands.run(folder, *TRAINED).status == 0
    return folder


def digit(number: int) -> Image.Image:
    """A digit as a picture of 8 x 8 gray pixels; image 10 + n of scikit-learn's is an n."""
    values = load_digits().images[10 + number] / 16 * 255
    return Image.fromarray(values.round().astype(np.uint8))


def predict(home: Path, *arguments: str) -> commands.Result:
    return commands.run(home, "predict", "run=reader", *arguments)


def rows(home: Path, path: Path) -> dict[str, dict[str, float]]:
    """For each file its probabilities by class."""
    done = predict(home, f"input={path}", "top=10", "--output", "json")
    assert (done.status, done.err) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.out)
    return {
        Path(row["file"]).name: {entry["class"]: entry["probability"] for entry in row["top"]}
        for row in found
    }


def test_predict_classifies_digit_images_correctly(home: Path, tmp_path: Path) -> None:
    for number in range(10):
        digit(number).save(tmp_path / f"{number}.png")
    found = rows(home, tmp_path)
    assert {name: next(iter(top)) for name, top in found.items()} == {
        f"{number}.png": str(number) for number in range(10)
    }
    for top in found.values():
        assert sorted(top) == list("0123456789")
        assert sum(top.values()) == pytest.approx(1, abs=1e-5)
        assert list(top.values()) == sorted(top.values(), reverse=True)


def test_predictions_do_not_depend_on_the_image_mode(home: Path, tmp_path: Path) -> None:
    plain = digit(3)
    plain.save(tmp_path / "plain.png")
    plain.convert("RGB").save(tmp_path / "rgb.png")
    plain.convert("RGBA").save(tmp_path / "rgba.png")
    palette = plain.copy()
    palette.putpalette([value for gray in range(256) for value in (gray, gray, gray)])
    palette.save(tmp_path / "palette.png")
    assert Image.open(tmp_path / "palette.png").mode == "P"
    sixteen = Image.fromarray(np.array(plain).astype(np.uint16) * 257)
    sixteen.save(tmp_path / "sixteen.png")
    assert Image.open(tmp_path / "sixteen.png").mode == "I;16"
    found = rows(home, tmp_path)
    assert len(found) == 5
    for name, top in found.items():
        assert top == pytest.approx(found["plain.png"], abs=1e-5), name


def test_predict_rotates_photo_by_exif_orientation(home: Path, tmp_path: Path) -> None:
    large = digit(7).resize((64, 64), Image.Resampling.BILINEAR)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    turned = large.transpose(Image.Transpose.ROTATE_90)
    large.save(tmp_path / "plain.jpg", quality=100)
    turned.save(tmp_path / "turned.jpg", quality=100, exif=exif)
    turned.save(tmp_path / "lying.jpg", quality=100)
    found = rows(home, tmp_path)
    assert found["turned.jpg"] == pytest.approx(found["plain.jpg"], abs=0.02)
    assert next(iter(found["turned.jpg"])) == "7"
    assert found["lying.jpg"] != pytest.approx(found["plain.jpg"], abs=0.1)


def test_predictor_adds_a_batch_dimension_to_one_image(home: Path, tmp_path: Path) -> None:
    digit(1).convert("RGB").resize((40, 30)).save(tmp_path / "one.png")
    (run,) = commands.run_dirs(home)
    recorded = Predictor(run, trust=[])
    inputs = recorded.read_image(tmp_path / "one.png")
    assert inputs.shape == (1, 1, 16, 16)
    assert recorded.predict_proba(inputs).shape == (1, 10)


@pytest.mark.parametrize("white", [1, 255])
def test_predict_scales_image_like_float_training_arrays(tmp_path: Path, white: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
    Image.fromarray(pixels[3]).save(tmp_path / "3.png")
    x = (pixels * (white / 255)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(20) % 2, classes=["a", "b"])
    options = ("data=arrays", "data.path=x.npz", "data.val=0.5", "data.batch_size=10", "epochs=1")
    small = (*commands.CPU, "tracking=none", "model.widths=[2]")
    assert commands.run(tmp_path, *small, *options).status == 0
    (run,) = commands.run_dirs(tmp_path)
    found = Predictor(run, ()).read_image(tmp_path / "3.png")
    facts = commands.read_json(run / "data.json")
    expected = (pixels[3] / 255 - facts["mean"][0]) / facts["std"][0]
    torch.testing.assert_close(found[0, 0].double(), torch.from_numpy(expected), atol=1e-5, rtol=0)
    assert 0.4 < facts["mean"][0] < 0.6 and 0.2 < facts["std"][0] < 0.4  # of uniform noise in 0..1


def test_predict_rejects_array_run_with_unknown_white_value(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(20, 8, 8))
    np.savez(tmp_path / "x.npz", x=x, y=np.arange(20) % 2)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    options = ("data=arrays", "data.path=x.npz", "data.val=0.5", "data.batch_size=10", "epochs=1")
    small = (*commands.CPU, "tracking=none", "model.widths=[2]")
    assert commands.run(tmp_path, *small, *options).status == 0
    done = commands.run(
        tmp_path, "predict", f"run={commands.run_dirs(tmp_path)[0].name}", "input=a.png"
    )
    assert (done.status, done.problems) == (2, [
        "recipe: run: its images were floats that are neither in 0..1 nor in 0..255, so the scale "
        "of new images is unknown; train it with data.white=<the value of white>"
    ])  # fmt: skip


def test_predict_prints_the_top_classes_of_one_image(home: Path) -> None:
    digit(0).save(home / "zero.png")
    done = predict(home, "input=zero.png")
    head, line = done.out.splitlines()
    assert head.split() == ["file"] + [
        word for place in "123" for word in ("top", place, "probability")
    ]
    assert line.split()[:2] == ["zero.png", "0"] and len(line.split()) == 7


def test_predict_on_folder_prints_table(home: Path, tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    digit(0).save(tmp_path / "zero.png")
    digit(1).save(tmp_path / "deeper" / "one.png")
    done = predict(home, f"input={tmp_path}", "top=1")
    assert [line.split()[1] for line in done.out.splitlines()] == ["top", "1", "0"]


def test_predictions_are_written_as_csv_json_or_to_a_file(home: Path, tmp_path: Path) -> None:
    pictures, out = tmp_path / "pictures", tmp_path / "out.csv"
    pictures.mkdir()
    digit(0).save(pictures / "zero.png")
    shown = predict(home, f"input={pictures}", "top=2", "--output=csv").out
    (row,) = csv.DictReader(shown.splitlines())
    assert list(row) == ["file", "top_1", "top_1_probability", "top_2", "top_2_probability"]
    assert (row["file"], row["top_1"]) == (str(pictures / "zero.png"), "0")
    done = predict(home, f"input={pictures}", "top=2", "--output", str(out))
    assert out.read_text() == shown
    assert done.out == f"1 prediction in {out}\n"
    as_json = json.loads(predict(home, f"input={pictures}", "top=2", "--output=json").out)
    assert [entry["class"] for entry in as_json[0]["top"]] == [row["top_1"], row["top_2"]]


def test_csv_escapes_names_resembling_formulas(home: Path, tmp_path: Path) -> None:
    name = "=cmd|' /C calc'!A0"
    copy = tmp_path / "copy"
    shutil.copytree(home / "outputs", copy / "outputs")
    (run,) = commands.run_dirs(copy)
    facts = commands.read_json(run / "data.json")
    facts["classes"][0] = name
    (run / "data.json").write_text(json.dumps(facts))
    digit(0).save(copy / "=1+1.png")
    done = predict(copy, "input==1+1.png", "top=1", "--output=csv")
    (row,) = csv.DictReader(done.out.splitlines())
    assert row["file"] == "'=1+1.png"
    assert row["top_1"] == f"'{name}"


def test_predict_reports_damaged_images_and_predicts_the_rest(home: Path, tmp_path: Path) -> None:
    digit(5).save(tmp_path / "good.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "words.jpg").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    done = predict(home, f"input={tmp_path}", "--output=json")
    assert done.status == 1
    assert [Path(row["file"]).name for row in json.loads(done.out)] == ["good.png"]
    named = [line.split(":")[1].strip() for line in done.problems[:-1]]
    assert named == [str(tmp_path / name) for name in ("cut.png", "empty.png", "words.jpg")]
    assert done.problems[-1] == "recipe: 3 of 4 files could not be read"


def test_predict_finds_run_by_id_prefix_name_or_mlflow_id(home: Path, tmp_path: Path) -> None:
    digit(2).save(tmp_path / "two.png")
    (run,) = commands.run_dirs(home)
    mlflow = commands.read_json(run / "sent.json")["mlflow_run_id"]
    shown = {
        commands.run(home, "predict", f"run={name}", f"input={tmp_path / 'two.png'}")
        for name in (run.name, run.name[:-3], "reader", mlflow)
    }
    assert len(shown) == 1 and shown.pop().status == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("run=raeder input=../zero.png", "run: no run 'raeder' is recorded in {home}/outputs/runs; "
                               "did you mean reader?"),
        ("run=reader input=nowhere", "input: there is no file or folder nowhere"),
        ("run=reader input=.", "input: no image in . (looked for .bmp, .gif, "),
        ("run=reader input=. top=0", "predict: top must be a whole number above 0, got 0"),
        ("run=reader input=. --output=xml", "predict: --output must be csv, json, or a path with "),
        ("run=reader input=. tpo=2", "predict: tpo=2: no such argument; did you mean top?"),
        ("run=reader", "predict: input is required; give input=..."),
    ],
)  # fmt: skip
def test_invalid_arguments_are_rejected(home: Path, arguments: str, problem: str) -> None:
    empty = home / "empty"
    empty.mkdir(exist_ok=True)
    digit(0).save(home / "zero.png")
    done = commands.run(empty, "predict", *arguments.split(" "), f"output_dir={home / 'outputs'}")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"recipe: {problem.format(home=home)}")


def test_predict_rejects_run_without_weights(home: Path, tmp_path: Path) -> None:
    (run,) = commands.run_dirs(home)
    shutil.copytree(run, tmp_path / "outputs" / "runs" / run.name)
    (tmp_path / "outputs" / "runs" / run.name / "model.safetensors").unlink()
    digit(0).save(tmp_path / "zero.png")
    done = commands.run(tmp_path, "predict", "run=reader", "input=zero.png")
    assert (done.status, done.err) == (
        2,
        f"recipe: run: {run.name} has no weights, as it ended before its first epoch; "
        "use another run\n",
    )


def test_predict_reports_unreadable_files_and_prints_the_rest(home: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "phone.heic").write_bytes(b"x")
    Image.new("L", (8, 8)).save(tmp_path / "good.png")
    os.rename(os.fsencode(tmp_path / "good.png"), os.fsencode(tmp_path) + b"/\xff\n.png")
    done = predict(home, f"input={tmp_path}")
    assert done.status == 1
    assert f"{tmp_path}/\\udcff\\n.png" in done.out
    assert done.problems == [
        f"recipe: {tmp_path}/phone.heic: is not a readable image: none of PNG, JPEG, BMP, GIF, "
        "TIFF, WEBP, PPM, HEIC",
        f"recipe: {tmp_path}/pipe.png: is not a readable image: it is not a regular file",
        "recipe: 2 of 3 files could not be read",
    ]


def test_predict_rejects_unusable_paths_before_starting(home: Path, tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path)
    for arguments, problem in (
        ((f"input={tmp_path}",), f"input: {tmp_path}/circle is a link to a folder above it"),
        (("input=~nobody_of_that_name/x",), "input: Could not determine home directory"),
        ((f"input={'x' * 300}",), f"input: {'x' * 300} can't be read: File name too long"),
        (("input=.", "--output=nowhere/out.csv"), "predict: --output nowhere/out.csv can't be"),
        (("input=.", "top=²"), "predict: top must be a whole number above 0, got ²"),
    ):
        done = predict(home, *arguments)
        assert (done.status, done.out) == (2, "")
        assert done.err.startswith(f"recipe: {problem}")
