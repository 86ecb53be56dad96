"""Kept outputs: shared by their content, whole or not there at all, and bounded."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import commands
import pytest
import torch
from cache_rows import LAYOUTS, SAMPLES, batches
from run_equality import numbers_alike
from torch.utils._python_dispatch import TorchDispatchMode

from recipe.training.frozen_cache import NotCacheable, cache_file, eviction
from recipe.training.frozen_cache.cache_file import Rows
from recipe.training.loop import train
from recipe.training.run import Run

Build = Callable[..., Run]

FROZEN = ("freeze=first_layers", "freeze.count=2", "epochs=3")


def made(folder: Path, key: str = "a") -> cache_file.CachedOutputs:
    return cache_file.load_or_write_outputs(folder, key, LAYOUTS, SAMPLES, batches)


def check(found: cache_file.CachedOutputs) -> None:
    chosen = torch.tensor([19, 0, 7, 7])
    assert [part.tolist() for part in found.select(chosen)] == [
        [[19.0] * 8, [0.0] * 8, [7.0] * 8, [7.0] * 8],
        [[19.0] * 2, [0.0] * 2, [7.0] * 2, [7.0] * 2],
    ]


def kept(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.kept"))


# Shared


class Convolutions(TorchDispatchMode):
    """Counts the images that convolutions are given."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.images = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.convolution.default, torch.ops.aten.conv2d.default):
            self.images += len(args[0])
        return func(*args, **(kwargs or {}))


def test_a_second_run_computes_no_cached_output_again(built: Build, tmp_path: Path) -> None:
    def work() -> tuple[int, float]:
        run = built(*FROZEN)
        with Convolutions() as counted:
            points = list(train(run))
        return counted.images, points[-1].metrics["val/loss"]

    first, loss = work()
    files = {path: path.stat().st_mtime_ns for path in kept(tmp_path)}
    second, again = work()
    assert loss == again
    assert {path: path.stat().st_mtime_ns for path in kept(tmp_path)} == files and len(files) == 2
    # 24 training images in full batches and 10 of validation, in two convolutions
    assert first - second == 2 * (24 + 10)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("change", "files"),
    [
        ("optimizer.lr=0.1", 0),
        ("model.dropout=0.5", 0),
        ("average=ema", 0),
        ("seed=1", 2),
        ("data.batch_size=10", 1),
        ("data.eval_batch_size=5", 1),
        ("data.n_val=9", 2),
        ("precision=bf16", 2),
        ("freeze.count=3", 2),
        ("device.threads=2", 2),
    ],
)
def test_the_key_depends_on_all_that_could_change_a_bit(
    built: Build, tmp_path: Path, change: str, files: int
) -> None:
    threads = torch.get_num_threads()
    for overrides in (FROZEN, (*FROZEN, change)):
        given = {override.split("=")[0]: override for override in overrides}
        list(train(built(*given.values())))
    torch.set_num_threads(threads)
    assert len(kept(tmp_path)) == 2 + files


TOGETHER = """
import sys
from pathlib import Path
from cache_rows import LAYOUTS, SAMPLES, batches
from recipe.training.frozen_cache import cache_file

def told():
    print("builds", flush=True)
    sys.stdin.readline()
    yield from batches()

found = cache_file.load_or_write_outputs(Path(sys.argv[1]), "a", LAYOUTS, SAMPLES, told)
print(int(found.tensors[0].sum()), flush=True)
"""


def together(folder: Path) -> subprocess.Popen[str]:
    path = f"{commands.CHECKOUT}{os.pathsep}{commands.CHECKOUT / 'tests'}"
    return subprocess.Popen(
        [sys.executable, "-c", TOGETHER, str(folder)], env=commands.environment(PYTHONPATH=path),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.integration
def test_cache_entry_is_built_by_one_process_while_others_wait(tmp_path: Path) -> None:
    started = [together(tmp_path) for _ in range(3)]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.communicate(timeout=100)[0].split() for process in started]
    total = str(8 * sum(range(20)))
    assert sorted(told) == [[total], [total], ["builds", total]]
    assert len(kept(tmp_path)) == 1 and not list(tmp_path.glob("*.tmp"))


@pytest.mark.integration
def test_the_incomplete_file_of_a_killed_process_is_ignored_and_removed(tmp_path: Path) -> None:
    process = together(tmp_path)
    assert process.stdout is not None and process.stdout.readline() == "builds\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=100)
    assert len(list(tmp_path.glob("*.tmp"))) == 1
    assert cache_file.load_cached_outputs(tmp_path, "a", LAYOUTS, SAMPLES) is None
    check(made(tmp_path))
    assert not list(tmp_path.glob("*.tmp"))


# Whole


@pytest.mark.parametrize("damage", ["first", "middle", "last", "cut", "empty"])
def test_a_damaged_file_is_detected_and_replaced(tmp_path: Path, damage: str) -> None:
    check(made(tmp_path))
    (path,) = kept(tmp_path)
    good = path.read_bytes()
    content = bytearray(good)
    if damage in ("cut", "empty"):
        content = content[: len(content) // 2 if damage == "cut" else 0]
    else:
        content[{"first": 2, "middle": len(content) // 2, "last": -1}[damage]] ^= 1
    path.write_bytes(content)
    assert cache_file.load_cached_outputs(tmp_path, "a", LAYOUTS, SAMPLES) is None
    check(made(tmp_path))
    assert kept(tmp_path) == [path] and path.read_bytes() == good


def test_nothing_is_cached_if_a_samples_position_changes_its_bits(tmp_path: Path) -> None:
    def shifted() -> Iterator[tuple[int, Rows]]:
        for first, given in batches():
            yield first, tuple(each + first / 4 for each in given)

    with pytest.raises(NotCacheable, match="a sample's place in its batch changes the last bits"):
        cache_file.load_or_write_outputs(tmp_path, "a", LAYOUTS, SAMPLES, shifted)
    assert not kept(tmp_path) and not list(tmp_path.glob("*.tmp"))


def test_cached_tensors_in_use_cannot_write_to_the_file(tmp_path: Path) -> None:
    found = made(tmp_path)
    before = kept(tmp_path)[0].read_bytes()
    for part in found.select(torch.arange(SAMPLES)):
        part.zero_()
    for tensor in found.tensors:
        tensor.zero_()
    assert kept(tmp_path)[0].read_bytes() == before


def test_nothing_is_cached_on_a_full_disk(tmp_path: Path) -> None:
    command = (*commands.QUICK, "tracking=none", *FROZEN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        done = commands.run(tmp_path, *command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.status == 0, done.err
    # of 100 samples 4 channels of 16 x 16 floats each
    assert "computed each time: nothing can be kept (File too large)" in " ".join(done.out.split())
    assert not kept(tmp_path) and not list(tmp_path.rglob("*.tmp"))
    assert commands.run(tmp_path, *command, "freeze.cache=off", "again=true").status == 0
    numbers_alike(*commands.run_dirs(tmp_path))


# Bounded


def test_the_least_recently_used_entry_is_evicted_but_none_in_use(tmp_path: Path) -> None:
    in_use = made(tmp_path, "a")
    for key in "bcd":
        made(tmp_path, key)
    size = kept(tmp_path)[0].stat().st_size
    assert (
        cache_file.load_cached_outputs(tmp_path, "b", LAYOUTS, SAMPLES) is not None
    )  # which is now the newest
    eviction.evict_entries(tmp_path, size, max_bytes=4 * size)
    assert [path.stem for path in kept(tmp_path)] == ["a", "b", "d"]
    eviction.evict_entries(tmp_path, 2 * size, max_bytes=4 * size)
    assert [path.stem for path in kept(tmp_path)] == ["a", "b"]
    with pytest.raises(NotCacheable, match="has no room for it"):
        eviction.evict_entries(tmp_path, 4 * size, max_bytes=4 * size)
    assert [path.stem for path in kept(tmp_path)] == ["a"]
    check(in_use)
    del in_use
    eviction.evict_entries(tmp_path, 4 * size, max_bytes=4 * size)
    assert not kept(tmp_path)


def test_more_than_the_limit_is_not_cached() -> None:
    with pytest.raises(
        NotCacheable, match=r"^8\.0 GiB would have to be kept; (the limit|half of the) "
    ):
        eviction.check_entry_size(2**33)
    eviction.check_entry_size(2**20)
