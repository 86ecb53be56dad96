"""Ctrl-C and SIGTERM while it isn't our own code that is at work: a library, another process."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import commands
import psutil
import pytest
from sent_runs import SentRecorder

from recipe.components.tracking.local import local
from recipe.store.upload_state import UploadState

WHILE_IMPORTING = """
import os, runpy, signal, sys

class Interrupts:
    def find_spec(self, name, path, target=None):
        if name == "recipe.cli.help":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
sys.argv = ["recipe", "--help"]
runpy.run_module("recipe", run_name="__main__", alter_sys=True)
"""

FAILS_AT_TIDYING_UP = """
import os, signal, time

def data(split):
    try:
        os.kill(os.getpid(), signal.SIGNAL)
        time.sleep(60)
    finally:
        None.close()
"""


@pytest.mark.integration
def test_interrupt_during_import_exits_with_one_line(tmp_path: Path) -> None:
    done = commands.spawn(tmp_path, program=(sys.executable, "-c", WHILE_IMPORTING))
    assert (done.status, done.out, done.err) == (130, "", "recipe: interrupted\n")


@pytest.mark.parametrize(
    ("name", "status", "said"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")]
)
def test_cleanup_error_after_a_signal_is_reported_as_the_signal(
    tmp_path: Path, name: str, status: int, said: str
) -> None:
    parts = FAILS_AT_TIDYING_UP.replace("SIGNAL", name)
    settings = "batch_size: 8\neval_batch_size: 8\nclasses: auto\n"
    commands.project(tmp_path, {
        "parts.py": parts, "conf/data/mine.yaml": f"_target_: parts.data\n{settings}",
    })  # fmt: skip
    done = commands.run(tmp_path, *commands.CPU, "data=mine", "trust=[parts]", "tracking=none")
    assert (done.status, done.err) == (status, f"recipe: {said}\n")
    assert not commands.run_dirs(tmp_path)


SWALLOWS = """
import os, signal, torch
from recipe.components.contract import needs_model

@needs_model
def clip(model):
    for _ in range(TIMES):
        try:
            os.kill(os.getpid(), signal.SIGNAL)
        except KeyboardInterrupt:
            pass
    return lambda params: torch.nn.utils.get_total_norm([p.grad for p in params])
"""


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_signal_during_build_stops_run_despite_swallowed_exception(
    tmp_path: Path, name: str, status: int, times: int
) -> None:
    parts = SWALLOWS.replace("SIGNAL", name).replace("TIMES", f"{times}")
    commands.project(tmp_path, {"parts.py": parts, "conf/clip/mine.yaml": "_target_: parts.clip\n"})
    settings = (*commands.QUICK, "clip=mine", "trust=[parts]", "tracking=none")
    done = commands.run(tmp_path, *settings)
    assert done.status == status, done.err
    (run,) = commands.run_dirs(tmp_path)
    assert commands.read_json(run / "run.json")["status"] == "KILLED"
    planned = commands.run(tmp_path, "plan", *settings[:-1])  # which has nothing to stop
    assert planned.status == status


AT_THE_END = """
import os, signal, sys, threading

def interrupt():
    threading.main_thread().join()
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
from recipe.cli import main
main.main(["--version"])
"""


@pytest.mark.integration
def test_signals_at_interpreter_exit_do_not_change_the_exit_status(tmp_path: Path) -> None:
    done = commands.spawn(tmp_path, program=(sys.executable, "-c", AT_THE_END))
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("recipe ")


@pytest.mark.integration
def test_signal_does_not_stop_starting_uploader_process(tmp_path: Path) -> None:
    before = psutil.Process().children()
    outputs = tmp_path / "outputs"
    recorder = SentRecorder(outputs, "short", local(outputs, experiment="recipe"))
    recorder.log_metrics(1, {"loss": 1.0})
    (started,) = (child for child in psutil.Process().children() if child not in before)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(started.pid, number)
    recorder.close("FINISHED")
    assert recorder.upload_failure is None
    sent = UploadState.read(recorder.run_dir)
    assert sent is not None and sent.describe_unsent(recorder.run_dir) == ""
