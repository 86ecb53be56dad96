"""`recipe predict`: classifies images with a recorded run's best weights."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from recipe import output as terminal
from recipe.compare.report.csv_tables import format_csv
from recipe.components.data import image_reading
from recipe.components.data.image_files import IMAGE_SUFFIXES, list_image_files
from recipe.components.device.auto import Auto
from recipe.config import compose
from recipe.config.instantiate import instantiate
from recipe.config.spec import RunSpec
from recipe.config.verb_arguments import parse_key_values
from recipe.errors import Problems, SpecError
from recipe.formatting import escape_unprintable, pluralize
from recipe.nn.weights import load_weights, read_weights
from recipe.runner.console import make_table
from recipe.store import run_dirs

BATCH_SIZE = 64


@dataclass(frozen=True)
class Prediction:
    file: str
    top_classes: list[tuple[str, float]]
    """(class, probability), the most probable first."""


class Predictor:
    """A recorded run's model with its best weights, and the preprocessing of its images.

    Raises ValueError if the run has no weights or its model can't be built.
    """

    def __init__(self, run_dir: Path, trust: Sequence[str]) -> None:
        terminal.set_current_task("building the model")
        weights = run_dir / "model.safetensors"
        if not weights.is_file():
            raise ValueError(
                f"run: {run_dir.name} has no weights, as it ended before its first epoch; use "
                "another run"
            )
        spec = RunSpec.from_file(run_dir / "spec.yaml", trust)
        components = instantiate(spec, ("model", "evaluation"))
        if components.problems:
            raise SpecError(line for lines in components.problems.values() for line in lines)
        facts = run_dirs.read_dataset_info(run_dir, "run")
        self.classes = facts.classes
        self.channels, self.size = facts.channels, facts.size
        self.mean, self.std = facts.mean, facts.std
        if not facts.white_known:
            raise ValueError(
                "run: its images were floats that are neither in 0..1 nor in 0..255, so the scale "
                "of new images is unknown; train it with data.white=<the value of white>"
            )
        if {len(self.mean), len(self.std)} != {self.channels}:
            raise ValueError(
                f"run: {run_dir / 'data.json'} does not have one mean and one std per channel; "
                "use another run"
            )
        limit = spec.data.get("max_pixels")
        self.max_pixels = limit if type(limit) is int else None
        self.device = Auto(threads="auto").select()
        counts = {"channels": self.channels, "classes": len(self.classes), "size": self.size[0]}
        try:
            model: nn.Module = components["model"].bind(counts)()
        except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"model: can't be built: {reason}; use another run") from error
        with Problems.prefix_key("run"):
            load_weights(model, read_weights(weights), head=set())
        self.model = model.to(self.device).eval()
        self.forward = components["evaluation"].bind()
        self._check_model()

    def _check_model(self) -> None:
        """Raises ValueError unless the model returns one logit per class for an image."""
        try:
            shape = tuple(self.predict_proba(torch.zeros(1, self.channels, *self.size)).shape)
        except (RuntimeError, TypeError, AttributeError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"model: fails for an image: {reason}; use another run") from error
        if shape != (1, len(self.classes)):
            raise ValueError(
                f"model: returns {shape} for one image and {len(self.classes)} classes; use "
                "another run"
            )

    def read_image(self, path: Path) -> Tensor:
        """Shape (1, channels, height, width). Raises ValueError with the path if it is no image."""
        image = image_reading.read_resized_image(
            path, channels=self.channels, size=self.size, max_pixels=self.max_pixels
        )
        return image_reading.normalise(image, mean=self.mean, std=self.std)[None]

    def predict_proba(self, inputs: Tensor) -> Tensor:
        """(batch, classes) for inputs (batch, channels, height, width)."""
        with torch.inference_mode():
            logits: Tensor = self.forward(self.model, inputs.to(self.device))
        return logits.float().softmax(1).cpu()


def predict(arguments: Sequence[str], console: Console) -> int:
    """Files that can't be read are listed on standard error; the exit status is then 1."""
    known = {"run": "", "input": "", "top": "3", "output": "", "output_dir": "", "trust": ""}
    values = parse_key_values("predict", arguments, known)
    problems = [
        f"predict: {key} is required; give {key}=..." for key in ("run", "input") if not values[key]
    ]
    if not re.fullmatch("[0-9]{1,9}", values["top"]) or int(values["top"]) < 1:
        problems.append(f"predict: top must be a whole number above 0, got {values['top']}")
    form = values["output"].rpartition(".")[2]
    if form not in ("", "csv", "json"):
        problems.append(
            f"predict: --output must be csv, json, or a path with one of these suffixes, got "
            f"{values['output']}"
        )
    output = Path(values["output"])
    if output.suffix and (output.is_dir() or not os.access(output.absolute().parent, os.W_OK)):
        problems.append(
            f"predict: --output {output} can't be written; give a path in an existing folder"
        )
    if problems:
        raise SpecError(problems)
    files = _list_files(values["input"])
    trust = compose.get_trusted_packages(values["trust"])
    outputs = run_dirs.resolve_output_dir(values["output_dir"])
    try:
        recorded = Predictor(run_dirs.find(outputs, values["run"], "run"), trust)
    except ValueError as error:
        raise SpecError(str(error)) from error
    found, bad = [], 0
    for result in classify(recorded, files, int(values["top"])):
        if isinstance(result, Prediction):
            found.append(result)
        else:
            bad += 1
            terminal.print_error(str(result))
    _write_predictions(found, form, output, console)
    if bad:
        terminal.print_error(f"{bad} of {len(files)} files could not be read")
    return 1 if bad else 0


def _list_files(given: str) -> list[Path]:
    try:
        path = Path(given).expanduser()
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise SpecError(f"input: there is no file or folder {escape_unprintable(path)}")
        files = [path / name for name in list_image_files(path)]
    except OSError as error:
        where = escape_unprintable(str(error.filename))
        raise SpecError(f"input: {where} can't be read: {error.strerror}") from error
    except (ValueError, RuntimeError) as error:  # a circular link; an unknown ~user
        raise SpecError(f"input: {error}") from error
    if not files:
        looked_for = ", ".join(sorted(IMAGE_SUFFIXES))
        raise SpecError(f"input: no image in {escape_unprintable(path)} (looked for {looked_for})")
    return files


def classify(
    predictor: Predictor, files: Sequence[Path], top: int
) -> Iterator[Prediction | ValueError]:
    """Yields one result per file, in order; an error for one that can't be read."""
    terminal.set_current_task(f"reading {pluralize(len(files), 'image')}")
    for start in range(0, len(files), BATCH_SIZE):
        inputs: dict[Path, Tensor] = {}
        wrong: dict[Path, ValueError] = {}
        batch = files[start : start + BATCH_SIZE]
        for file in batch:
            try:
                inputs[file] = predictor.read_image(file)
            except ValueError as error:
                wrong[file] = error
        rows = iter(predictor.predict_proba(torch.cat(list(inputs.values()))) if inputs else ())
        for file in batch:
            if file in wrong:
                yield wrong[file]
            else:
                best = next(rows).topk(min(top, len(predictor.classes)))
                pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
                yield Prediction(
                    escape_unprintable(file), [(predictor.classes[i], share) for i, share in pairs]
                )


def _write_predictions(found: list[Prediction], form: str, output: Path, console: Console) -> None:
    if not form:
        if not console.is_terminal:  # one line per file, however long its path
            console.width = 10_000
        console.print(_build_table(found))
        return
    text = _format_csv(found) if form == "csv" else json.dumps(_to_records(found), indent=2) + "\n"
    if output.suffix:
        output.write_text(text, encoding="utf-8")
        terminal.print_text(f"{pluralize(len(found), 'prediction')} in {output}\n")
    else:
        terminal.print_text(text)


def _build_table(found: list[Prediction]) -> Table:
    if len(found) == 1 and len(found[0].top_classes) > 5:  # too wide for a line
        table = make_table(found[0].file, "probability", right=["probability"])
        for name, probability in found[0].top_classes:
            table.add_row(name, f"{probability:.4f}")
        return table
    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="fold")
    for place in range(1, len(found[0].top_classes) + 1 if found else 1):
        table.add_column(f"top {place}")
        table.add_column("probability", justify="right")
    for one in found:
        table.add_row(
            one.file, *(text for name, p in one.top_classes for text in (name, f"{p:.4f}"))
        )
    return table


def _format_csv(found: list[Prediction]) -> str:
    places = range(1, len(found[0].top_classes) + 1 if found else 1)
    names = (name for n in places for name in (f"top_{n}", f"top_{n}_probability"))
    rows = (
        [one.file, *(cell for name, p in one.top_classes for cell in (name, f"{p:.6f}"))]
        for one in found
    )
    return format_csv([["file", *names], *rows])


def _to_records(found: list[Prediction]) -> list[dict[str, Any]]:
    return [
        {
            "file": one.file,
            "top": [{"class": name, "probability": p} for name, p in one.top_classes],
        }
        for one in found
    ]
