"""Several processes share a run: the losses of one process, each sample evaluated once, one record.

A launch of torchrun takes ten seconds, so two of them serve all claims but that of a killed
process.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import commands
import multiprocess_runs
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recipe.store import journal, run_dirs
from recipe.store.journal import MetricHistory

EXACT = 1e-5
"""Sums over processes are formed in another order than those over a batch."""

PARTS = '''
import os
import signal
from pathlib import Path

import torch
from torch import nn

calls = 0


def clip(params, *, at):
    """Measures; the second process gets SIGTERM at that call, once."""
    global calls
    calls += 1
    fired = Path(f"fired-{at}")
    if os.environ.get("RANK") == "1" and calls == at and not fired.exists():
        fired.touch()
        os.kill(os.getpid(), signal.SIGTERM)
    return torch.nn.utils.get_total_norm([p.grad for p in params])


class Gate(nn.Linear):
    """One layer, which an image that is much brighter than all others breaks in training."""

    def forward(self, images):
        broken = images.amax((1, 2, 3)) > 20
        return super().forward(images.flatten(1)) + torch.where(
            broken & self.training, torch.nan, 0.0)[:, None]


def gate(*, channels, size, classes, hidden, dropout):
    return Gate(channels * size * size, classes)
'''

DIGITS = ("data.train_size=101", "data.batch_size=25", "data.eval_batch_size=50")
"""Batches of 25, 25, 25, 25 and 1, which two or three processes can't share evenly; 359 samples
to validate on in batches of 50, the last of 9."""

CPU = multiprocess_runs.HERE

SMALL = (*CPU, *DIGITS, "epochs=2", "model=mlp", "model.hidden=[16]")
PLAIN = (*CPU, *DIGITS, "epochs=2", "model.widths=[4,8]", "model.batchnorm=false")
BRIGHT = (
    *CPU, "epochs=2", "data=arrays", "data.path=bright.npz", "data.batch_size=8",
    "model=mlp", "model._target_=parts.gate", "trust=[parts]",
)  # fmt: skip
STOPPED = (
    *SMALL, "checkpoint.per=step", "checkpoint.every=1000", "trust=[parts]", "clip=mine",
    "optimizer.momentum=0.9",
)  # fmt: skip

ALIKE = {
    "uneven shares": (*SMALL, "optimizer=adam", "scheduler=step", "clip=norm"),
    "mixed batches, thawing, averages": (
        *PLAIN, "augment=mixup", "average=ema", "clip=agc", "param_groups=vgg_conv1",
        "freeze=gradual", "freeze.stages=[{epoch: 1, names: ['*1_*']}]",
    ),
    "parts of weights": (
        *PLAIN, "freeze=vgg_first2", "clip=norm", "optimizer=adam", "distributed=fsdp",
    ),
}  # fmt: skip
"""Without BatchNorm and dropout: as many processes as one likes give the losses of one."""

TWO = {
    **ALIKE,
    "left out": (*BRIGHT, "on_nonfinite=skip"),
    "not finite": BRIGHT,
    "normalised": (*CPU, *DIGITS, "epochs=1", "data.train_size=100", "model.widths=[2,4]"),
    "stopped for three": (*STOPPED, "clip.at=6", "name=three"),
    "stopped for one": (*STOPPED, "clip.at=7", "name=one"),
    "stopped": (*STOPPED, "clip.at=8", "model.dropout=0.5"),
    "gone on with": (*STOPPED, "clip.at=8", "model.dropout=0.5"),
    "never stopped": (*STOPPED, "clip.at=8", "model.dropout=0.5", "again=true"),
}

REFUSED: Mapping[tuple[str, ...], list[str]] = {
    ("-m", "clip=none,norm"): [
        "-m: starts its own processes, so 2 processes can't share it; use python -m recipe -m "
        "clip=none,norm"
    ],
    ("compare", "all"): [
        "compare: runs in one process, so 2 processes can't share it; use python -m recipe "
        "compare all"
    ],
    (*CPU, "modle=vgg", "epochs=0"): [
        "modle=vgg: no such key; did you mean model?",
        "epochs must be greater than 0, got 0; use 12, the default",
    ],
    (*CPU, "data.batch_size=1", "model=mlp", "distributed.sync_batchnorm=true"): [
        "data.batch_size is 1, but 2 processes share each batch; use data.batch_size=2 or more",
        "distributed.sync_batchnorm is true, but torch's SyncBatchNorm needs GPUs",
        "distributed.sync_batchnorm is true, but model=mlp has no BatchNorm; leave it out",
    ],
    (
        *CPU, "distributed=fsdp", "clip=value", "average=swa", "freeze=gradual",
        "channels_last=true",
    ): [
        "clip=value would get parts of gradients with distributed=fsdp; use clip=norm",
        "average=swa would average parts of weights with distributed=fsdp",
        "freeze=gradual unfreezes layers during the run",
        "channels_last is true, but distributed=fsdp can't shard weights in that memory format",
    ],
    (*CPU, "model=mlp", "loss._target_=torch.nn.CrossEntropyLoss", "+loss.reduction=sum"):
        ["loss._target_=torch.nn.CrossEntropyLoss is not a mean over the samples of a batch"],
}  # fmt: skip
"""What the first process tells of a command line, by its beginnings."""


def trace(run: Path) -> MetricHistory:
    found = journal.read_metrics(run)
    return {
        key: found[key] for key in found if not key.startswith(journal.NONDETERMINISTIC_PREFIXES)
    }


def assert_alike(one: Path, other: Path, *, within: float = EXACT) -> None:
    """Every metric of every step; nothing else is recorded."""
    mine, theirs = trace(one), trace(other)
    assert {k: [*v] for k, v in mine.items()} == {k: [*v] for k, v in theirs.items()}
    apart = {
        (key, step): (value, theirs[key][step])
        for key, values in mine.items()
        for step, value in values.items()
        if abs(value - theirs[key][step]) > within
    }
    assert apart == {}


def run_of(done: commands.Result, folder: Path) -> Path:
    """The recorded run of a command line, as it says itself."""
    return folder / done.out.partition("Record  ")[2].split()[0]


class Launched:
    """What became of command lines that two processes shared, and of some that three did."""

    def __init__(self, folder: Path) -> None:
        self.folder = commands.project(
            folder, {"parts.py": PARTS, "conf/clip/mine.yaml": "_target_: parts.clip\nat: 6\n"}
        )
        images = np.random.default_rng(0).random((30, 8, 8), np.float32)
        images[13, 0, 0] = 1e3
        np.savez(folder / "bright.npz", x_train=images, y_train=np.arange(30) % 3,
                 x_val=images[:9], y_val=np.arange(9) % 3)  # fmt: skip
        self.two = self._shared(2, {**TWO, **{" ".join(line): line for line in REFUSED}})
        parts = run_of(self.two["parts of weights"][0], folder).name
        three = {
            "uneven shares": ALIKE["uneven shares"],
            "stopped": (
                "resume",
                run_dirs.find(folder / "outputs", "three", "run").name,
                "trust=[parts]",
            ),
            "parts gone on with": ("resume", parts, "epochs=3"),
        }
        self.three = self._shared(3, three)
        self.recorded = len(commands.run_dirs(folder))

    def _shared(
        self, size: int, lines: Mapping[str, tuple[str, ...]]
    ) -> dict[str, list[commands.Result]]:
        return dict(
            zip(lines, multiprocess_runs.shared(self.folder, size, *lines.values()), strict=True)
        )

    def alone(self, *line: str) -> Path:
        """The run of one process."""
        done = commands.run(self.folder, *line, "again=true")
        assert done.status == 0, done.err
        return run_of(done, self.folder)


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Launched:
    return Launched(tmp_path_factory.mktemp("launched"))


@pytest.mark.parametrize("what", ALIKE)
def test_two_and_three_processes_match_a_single_process(launched: Launched, what: str) -> None:
    alone = launched.alone(*ALIKE[what])
    three = [(3, launched.three[what])] if what in launched.three else []
    for size, done in [(2, launched.two[what]), *three]:
        assert [each.status for each in done] == [0] * size, done
        assert f"Shared by {size} processes" in done[0].out
        assert_alike(run_of(done[0], launched.folder), alone)


def test_only_one_process_records_and_prints(launched: Launched) -> None:
    for done in (*launched.two.values(), *launched.three.values()):
        assert {(each.out, each.err) for each in done[1:]} == {("", "")}
    taken_up = 2  # by the same command, and by three processes
    assert launched.recorded == len(TWO) + len(launched.three) - taken_up
    tags = multiprocess_runs.tags(run_of(launched.two["uneven shares"][0], launched.folder))
    assert tags["recipe.processes"] == "2"


@pytest.mark.parametrize("line", REFUSED, ids=" ".join)
def test_errors_are_printed_by_one_process_and_all_exit_with_2(
    launched: Launched, line: tuple[str, ...]
) -> None:
    first, second = launched.two[" ".join(line)]
    assert (first.status, second.status) == (2, 2)
    for told, begins in zip(first.problems, REFUSED[line], strict=True):
        assert told.startswith(f"recipe: {begins}")


def test_distributed_nonfinite_handling_matches_single_process(launched: Launched) -> None:
    done = launched.two["left out"]
    assert [each.status for each in done] == [0, 0], done
    shared, alone = run_of(done[0], launched.folder), launched.alone(*TWO["left out"])
    assert trace(shared)["nonfinite/skipped"] == {4: 1.0, 8: 2.0}
    assert_alike(shared, alone)
    first, second = launched.two["not finite"]
    assert (first.status, second.status) == (1, 1)
    told = commands.run(launched.folder, *BRIGHT).err
    assert "in 1 of" in told and "(training sample 13)" in told
    assert first.err == told


def test_batchnorm_over_batch_shares_is_reported(launched: Launched) -> None:
    first, _ = launched.two["normalised"]
    assert first.status == 0
    assert "BatchNorm normalises over each one's own share of a batch" in first.out
    assert "BatchNorm normalises" not in launched.two["uneven shares"][0].out


def test_signal_to_one_process_stops_all_and_resume_is_identical(launched: Launched) -> None:
    assert [each.status for each in launched.two["stopped"]] == [143, 143]
    assert "torchrun --nproc-per-node 2 -m recipe resume" in launched.two["stopped"][0].out
    first = launched.two["gone on with"][0]
    assert first.status == 0 and "after step 8" in first.out
    whole = run_of(launched.two["never stopped"][0], launched.folder)
    assert_alike(run_of(first, launched.folder), whole, within=0.0)


def test_run_resumes_with_different_number_of_processes(launched: Launched) -> None:
    whole = launched.alone(*STOPPED)
    first = launched.three["stopped"][0]
    assert first.status == 0, first.err
    assert "Caution changed since" in first.out and "processes 2 -> 3" in first.out
    assert "The run had 2 processes, and has 3 now" in first.out
    assert_alike(run_of(first, launched.folder), whole)
    stopped = run_dirs.find(launched.folder / "outputs", "one", "run")
    done = commands.run(launched.folder, "resume", stopped.name, "trust=[parts]")
    assert "processes 2 -> 1" in done.out
    assert done.status == 0 and "and has 1 now" in done.out
    assert_alike(stopped, whole)


def test_sharded_weights_are_saved_complete_and_resume_in_1_or_3_processes(
    launched: Launched,
) -> None:
    parts = run_of(launched.two["parts of weights"][0], launched.folder)
    whole = launched.alone(*ALIKE["parts of weights"])
    mine, theirs = (load_file(run / "model.safetensors") for run in (parts, whole))
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor, rtol=0, atol=EXACT)
    longer = trace(launched.alone(*ALIKE["parts of weights"], "epochs=3"))["train/loss"]
    done = commands.run(launched.folder, "resume", parts.name, "epochs=3")
    assert done.status == 0, done.err
    for run in (done, launched.three["parts gone on with"][0]):
        losses = trace(run_of(run, launched.folder))["train/loss"]
        assert [*losses] == [11, 12, 13, 14, 15]
        assert all(abs(loss - longer[step]) < EXACT for step, loss in losses.items())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="nccl needs two GPUs")
def test_two_gpus_with_sync_batchnorm_match_one_gpu(tmp_path: Path) -> None:
    small = ("device=auto", "tracking=none", *DIGITS, "data.train_size=100", "epochs=2")
    line = (*small, "model.widths=[4,8]", "distributed.sync_batchnorm=true")
    (done,) = multiprocess_runs.shared(tmp_path, 2, line)
    assert [each.status for each in done] == [0, 0], done
    alone = commands.spawn(tmp_path, *line, "again=true")
    assert_alike(run_of(done[0], tmp_path), run_of(alone, tmp_path), within=1e-4)
