"""Each process of a sweep sees one GPU, selected before torch is imported.

There need be none here: the device is a user's own one that computes on the CPU, and notes what
its process saw when it imported torch.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import commands
import pytest
from sweep_records import statuses

from recipe.config import compose
from recipe.config.spec import RunSpec
from recipe.errors import SpecError
from recipe.sweep.launchers import gpu_assignment
from recipe.sweep.launchers.gpu_assignment import GpuSlots
from recipe.sweep.launchers.pool_launcher import allocate_workers

PARTS = {
    "sitecustomize.py": """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.meta_path.remove(self)
            names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
            sys.at_torch = " ".join(str(os.environ.get(name)) for name in names)

sys.meta_path.insert(0, Watch())
""",
    "parts.py": """
import os, pathlib, sys, time

class Card:
    def __init__(self, *, threads: int):
        self.threads = threads

    def environment(self):
        return {}

    def select(self):
        import torch
        torch.set_num_threads(self.threads)
        return torch.device("cpu")

    def hardware(self, device):
        return "a card"

def wait(params):
    from torch.nn.utils import get_total_norm
    pathlib.Path(f"seen-{os.getpid()}").write_text(sys.at_torch)
    while pathlib.Path("wait").exists():
        time.sleep(0.05)
    return get_total_norm([p.grad for p in params])
""",
    "conf/device/card.yaml": "_target_: parts.Card\nthreads: 1  # of the CPU\n",
    "conf/clip/waiting.yaml": "_target_: parts.wait\n",
    "conf/project/default.yaml": "trust: [parts]\n",
}


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    path = f"{folder}{os.pathsep}{commands.CHECKOUT}"
    return commands.start(folder, *SWEEP, *arguments, PYTHONPATH=path, **variables)


SWEEP = (
    "-m", "device=card", "model=mlp", "model.hidden=[4]", "data.train_size=50",
    "data.batch_size=25", "epochs=2", "clip=waiting", "tracking=none",
)  # fmt: skip

CARD = {"_target_": "parts.Card", "threads": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return commands.project(tmp_path, PARTS)


def seen(folder: Path) -> dict[int, list[str]]:
    """For each worker process: its GPU and the device order."""
    found = {int(p.name.removeprefix("seen-")): p.read_text() for p in folder.glob("seen-*")}
    return {process: text.split() for process, text in found.items() if text}


def waits(started: subprocess.Popen[str], folder: Path, number: int) -> dict[int, list[str]]:
    """Waits until `number` processes have started a job."""
    while len(found := seen(folder)) < number:
        assert started.poll() is None, started.communicate()
        time.sleep(0.05)
    return found


@pytest.mark.integration
def test_each_worker_has_its_own_gpu_which_a_killed_one_releases(folder: Path) -> None:
    (folder / "wait").touch()
    arguments = ("seed=0,1,2", "hydra.launcher.workers=2")
    started = start(folder, *arguments, CUDA_VISIBLE_DEVICES="7,GPU-4")
    first = waits(started, folder, 2)
    assert sorted(first.values()) == [["7", "PCI_BUS_ID"], ["GPU-4", "PCI_BUS_ID"]]
    killed = next(iter(first))
    os.kill(killed, signal.SIGKILL)
    after = waits(started, folder, 3)
    (another,) = after.keys() - first.keys()
    assert after[another] == first[killed]
    (folder / "wait").unlink()
    out, _ = started.communicate(timeout=120)
    assert "2 at a time on GPU 7, GPU-4, 1 thread each" in out
    assert sorted(statuses(folder)) == ["FINISHED", "FINISHED", "KILLED"]


@pytest.mark.long
def test_each_submitit_process_has_its_own_gpu(folder: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    (folder / "wait").touch()
    arguments = ("seed=0,1,2", "hydra/launcher=submitit_local", "hydra.launcher.per_gpu=1")
    started = start(folder, *arguments, "hydra.launcher.gpus=[5,3]")
    first = waits(started, folder, 2)
    assert sorted(first.values()) == [["3", "PCI_BUS_ID"], ["5", "PCI_BUS_ID"]]
    time.sleep(1)
    assert seen(folder) == first  # a third would wait
    (folder / "wait").unlink()
    _, err = started.communicate(timeout=120)
    assert started.returncode == 0, err
    assert statuses(folder) == ["FINISHED"] * 3


@pytest.mark.integration
@pytest.mark.long
def test_submitit_processes_share_one_gpu_in_turn(folder: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    arguments = ("seed=0,1", "hydra/launcher=submitit_local", "hydra.launcher.gpus=[5]")
    started = start(folder, *arguments)
    _, err = started.communicate(timeout=240)
    assert started.returncode == 0, err
    assert list(seen(folder).values()) == [["5", "PCI_BUS_ID"]] * 2


@pytest.mark.integration
@pytest.mark.long
def test_ray_assigns_a_gpu_to_each_job(folder: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    (folder / "wait").touch()
    started = start(
        folder, "seed=0,1,2,3", "hydra/launcher=ray", "hydra.launcher.remote.num_gpus=1",
        "+hydra.launcher.init.num_cpus=4", "+hydra.launcher.init.num_gpus=2",
        CUDA_DEVICE_ORDER="PCI_BUS_ID",
    )  # fmt: skip
    first = waits(started, folder, 2)
    (folder / "wait").unlink()
    _, err = started.communicate(timeout=240)
    assert started.returncode == 0, err
    assert sorted(gpu for gpu, *_ in first.values()) == ["0", "1"]
    assert statuses(folder) == ["FINISHED"] * 4


def test_every_gpu_has_one_process_before_any_has_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "restored afterwards")
    places = GpuSlots(tmp_path, ("7", "MIG-1/2"), per_gpu=2)
    with ExitStack() as held:
        taken = [held.enter_context(places.acquire_slot()) for _ in range(3)]
        with places.acquire_slot() as last:
            assert [*taken, last] == ["7", "MIG-1/2"] * 2
        with places.acquire_slot() as again:
            assert again == "MIG-1/2" == os.environ["CUDA_VISIBLE_DEVICES"]


def test_workers_are_limited_by_gpu_slots_and_cores() -> None:
    many = CARD | {"threads": 1}
    assert allocate_workers([many], 100, "auto", memory_bytes=2**40, n_gpu_slots=1) == (1, 1, True)
    assert allocate_workers([many], 100, 6, n_gpu_slots=8) == (6, 1, False)
    assert allocate_workers([many], 1, "auto", n_gpu_slots=8).n_workers == 1


def test_gpus_are_those_of_the_environment_else_those_listed_by_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names(asked: object = "auto") -> tuple[str, ...] | None:
        found = gpu_assignment.assign_gpus(tmp_path, asked, 1, [CARD])
        return found.device_ids if found else None

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert names() is None and names([2]) == ("2",)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 0\necho 1\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert names() == ("0", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-8,-1,4")  # CUDA reads no further than -1
    assert names() == ("3", "GPU-8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert names() is None


REFUSED = {
    ("device=card", "hydra.launcher.gpus=[0,0]", "hydra.launcher.per_gpu=0"): [
        "hydra.launcher.per_gpu must be a whole number of at least 1, got 0",
        "hydra.launcher.gpus names a GPU twice: [0, 0]; name each once, and hydra.launcher.per_gpu "
        "is the number of jobs that share one",
    ],
    ("hydra.launcher.workers=0",): [
        "hydra.launcher.workers must be auto or a whole number of at least 1, got 0"
    ],
    ("device=card", "hydra.launcher.gpus=all"): [
        "hydra.launcher.gpus must be auto or a list of indices, such as [0,1], got 'all'"
    ],
    ("device=card", "hydra.launcher.gpus=[1,2]"): [
        "hydra.launcher.gpus: there is no GPU 2, as CUDA_VISIBLE_DEVICES shows 0, 1; name others, "
        "or leave it out"
    ],
    ("device=card", "hydra.launcher.workers=3"): [
        "hydra.launcher.workers=3: 2 GPUs with 1 job each have room for 2; hydra.launcher.per_gpu "
        "is the number of jobs that share one"
    ],
    ("device=cpu", "hydra.launcher.gpus=[0,1]", "hydra.launcher.per_gpu=2"): [
        "hydra.launcher.gpus=[0, 1]: device=cpu computes on the CPU here; leave it out",
        "hydra.launcher.per_gpu=2: device=cpu computes on the CPU here; leave it out",
    ],
    ("device=gpu", "device.order=[1]", "hydra.launcher.gpus=[0]"): [
        "hydra.launcher.gpus=[0]: device=gpu names its GPUs itself; use device=auto, or leave it "
        "out"
    ],
}


@pytest.mark.parametrize(("typed", "problems"), REFUSED.items())
def test_ignored_settings_and_missing_gpus_are_refused(
    composed: Callable[..., RunSpec],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    typed: tuple[str, ...],
    problems: list[str],
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.chdir(folder)
    device = [text for text in typed if text.startswith("device")]
    with pytest.raises(SpecError) as refused:
        gpu_assignment.check_launcher_gpus(compose.parse_overrides(typed), composed(*device))
    assert refused.value.problems == problems


@pytest.mark.integration
def test_an_ignored_setting_is_refused_before_the_first_run(tmp_path: Path) -> None:
    typed = ("device=cpu", "seed=0,1", "hydra.launcher.per_gpu=2")
    done = commands.run(tmp_path, "-m", *typed)
    assert done.status == 2 and not (tmp_path / "outputs").exists()
    assert done.problems == [
        "recipe: hydra.launcher.per_gpu=2: device=cpu computes on the CPU here; leave it out"
    ]
