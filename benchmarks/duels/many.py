"""10,000 recorded runs: compared, their standing, and whether one was done before; against reading
as many from MLflow's database.

They are copies of one real run, in 20 variants of 500 seeds, with accuracies drawn at random.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import mlflow

from duels import turns
from duels.results import row
from duels.single import Rows
from duels.turns import Took, in_turn, timed
from recipe.runner import earlier_runs
from recipe.store import results, run_dirs
from recipe.store.upload_state import UploadState

RUN = ("data.train_size=512", "epochs=2")

CLIPS = ("none", "norm", "value", "agc")
SCHEDULERS = ("constant", "step", "cosine", "exponential", "multistep")


SENT = ("metrics.jsonl", "events.jsonl")


def table(folder: Path, rounds: int, threads: Sequence[int], number: int = 10_000) -> Rows:
    turns.recipe(*RUN, folder=folder, threads=1)
    outputs = (folder / "outputs").resolve()
    (run,) = run_dirs.get_runs_dir(outputs).iterdir()
    wanted = multiply(run, number)
    multiply_in_mlflow(outputs / "mlflow.db", number)
    frame = partial(_timed, lambda: _frame(outputs, number))
    asked = f"`tags.recipe.fingerprint = '{wanted}'`"
    rows = []
    for what, against, ours, theirs in (
        (f"`compare all` of {number:,} runs", "MLflow's search_runs, all as a data frame",
         partial(_verb, folder, ("compare", "all")), frame),
        (f"`status` of {number:,} runs", "the same",
         partial(_verb, folder, ("status",)), frame),
        (f"was it done before, of {number:,} runs?", "MLflow's search_runs by a tag",
         partial(_timed, lambda: _found(outputs, wanted)),
         partial(_timed, lambda: _tagged(outputs, asked.strip("`")))),
    ):  # fmt: skip
        took = in_turn({"recipe": ours, "mlflow": theirs}, rounds)
        rows.append(row(what, against, 1, took["mlflow"], took["recipe"]))
    return rows


def multiply(run: Path, number: int) -> str:
    """Makes so many runs of one; the fingerprint of the last of them."""
    texts = {name: (run / name).read_text() for name in results.JOURNAL_FILES}
    events = [json.loads(line) for line in texts["events.jsonl"].splitlines()]
    (about,) = (event for event in events if event["kind"] == "parameters")
    info, draw, written = json.loads((run / "run.json").read_text()), random.Random(0), ""
    sent = UploadState.read(run)
    assert sent is not None
    points = list(product(CLIPS, SCHEDULERS, range(number)))
    points = [point for point in points if point[2] < -(-number // 20)][:number]
    for index, (clip, scheduler, seed) in enumerate(points):
        id_ = f"20260101-{index // 3600:02d}{index // 60 % 60:02d}{index % 60:02d}-{index:08x}"
        made, written = run.parent / id_, f"{index:064x}"
        made.mkdir()
        about |= {"clip": clip, "scheduler": scheduler, "seed": str(seed)}
        told = {"name": f"clip={clip} scheduler={scheduler} seed={seed}", "fingerprint": written}
        (made / "run.json").write_text(json.dumps({**info, **told, "id": id_}))
        (made / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        lines = [json.loads(line) for line in texts["metrics.jsonl"].splitlines()]
        evaluated = [line["metrics"] for line in lines if "val/accuracy" in line["metrics"]]
        evaluated[-1]["val/accuracy"] = round(draw.gauss(0.9, 0.02), 4)
        (made / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        sent.metrics, sent.events = ((made / name).stat().st_size for name in SENT)
        sent.write(made)
        run_dirs.index_fingerprint(made, written)
        results.write_result(made)
    return written


def multiply_in_mlflow(database: Path, number: int) -> None:
    """Rows of the run there, copied under other ids."""
    with sqlite3.connect(database) as connection:
        (original,) = connection.execute(
            "select run_uuid from runs where run_uuid in (select run_uuid from params)"
        ).fetchone()
        ids = [(f"{index:032x}",) for index in range(number - 1)]
        for name in ("runs", "params", "tags", "latest_metrics"):
            described = connection.execute(f"pragma table_info({name})").fetchall()
            columns = ", ".join(column[1] for column in described)
            values = columns.replace("run_uuid", "?")
            connection.executemany(
                f"insert into {name} ({columns}) select {values} from {name}"
                f" where run_uuid = '{original}'",
                ids,
            )
    connection.close()


def _verb(folder: Path, arguments: Sequence[str], number: int) -> Took:
    took, _ = turns.process(["-m", "recipe", *arguments], folder, 1)
    return took


def _timed(work: Callable[[], Any], number: int) -> Took:
    took = Took()
    with timed(took):
        work()
    return took


def _frame(outputs: Path, number: int) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{outputs / 'mlflow.db'}")
    found = mlflow.search_runs(search_all_experiments=True, max_results=2 * number)
    assert len(found) >= number


def _tagged(outputs: Path, asked: str) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{outputs / 'mlflow.db'}")
    mlflow.search_runs(
        search_all_experiments=True, filter_string=asked, max_results=1, output_format="list"
    )


def _found(outputs: Path, wanted: str) -> None:
    assert earlier_runs.read_earlier_runs(outputs, wanted).finished_run_dir is not None
