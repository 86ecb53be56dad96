"""The process that feeds MLflow: `python -m recipe.mlflow_sync.worker`, started by recipe.mlflow_sync.worker_process.

Reads lines of JSON: `{"start": run folder, "tracking": {...}}`, `{"finish": run folder,
"patience": seconds}` and `{"leave": run folder}`; answers each `finish` with the run's folder and
how far it came. `{"tell": sweep folder, "tracking": {...}, "outputs": folder}` tells MLflow how a
sweep ended; the answer is the sweep's folder and why MLflow didn't take it. When nothing more can
come, as whoever asks has ended, it ends too.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from recipe.components.tracking import Tracking
from recipe.mlflow_sync import client, parent_run
from recipe.mlflow_sync.follow import UploadThread


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # whoever asks decides when it ends
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever MLflow prints is no answer
    gc.set_threshold(100_000)  # MLflow's many objects stay, and needn't be looked at so often
    threading.Thread(target=client.configure_mlflow, daemon=True).start()
    _handle_requests(sys.stdin, answers)
    os._exit(0)  # a call to a server that hangs isn't waited for


def _handle_requests(requests: IO[str], answers: IO[str]) -> None:
    feeds: dict[str, UploadThread] = {}
    writing = threading.Lock()

    def finish(run: str, patience: float) -> None:
        answer(run, asdict(feeds[run].finish(patience)))

    def tell(sweep: str, tracking: Tracking, outputs: str) -> None:
        answer(sweep, {"failure": parent_run.send_sweep_end(tracking, Path(outputs), Path(sweep))})

    def answer(of: str, content: dict[str, Any]) -> None:
        with writing:
            answers.write(json.dumps({"run": of, **content}) + "\n")
            answers.flush()

    for line in requests:
        what: dict[str, Any] = json.loads(line)
        if run := what.get("start"):
            feeds[run] = UploadThread(Path(run), Tracking(**what["tracking"]))
            feeds[run].start()
        elif run := what.get("finish"):
            threading.Thread(target=finish, args=(run, what["patience"]), daemon=True).start()
        elif run := what.get("leave"):
            feeds[run].abandon()
        elif sweep := what.get("tell"):
            given = (sweep, Tracking(**what["tracking"]), what["outputs"])
            threading.Thread(target=tell, args=given, daemon=True).start()


if __name__ == "__main__":
    main()
