"""Device: which variables stand when torch is imported, and what is said if that can't be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import commands
import pytest
import torch

from recipe.components import device
from recipe.components.device.auto import Auto
from recipe.components.device.gpu import Gpu
from recipe.errors import SpecError
from recipe.training.run import Run

VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS", "GOMP_SPINCOUNT")

WATCH = f"""
import json, os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":  # torch is about to be imported for the first time
            sys.meta_path.remove(self)
            seen = {{key: os.environ.get(key) for key in {VARIABLES!r}}}
            print("WATCH", json.dumps(seen), flush=True)

sys.meta_path.insert(0, Watch())
"""


def fresh(tmp_path: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A new process, in a folder of its own, without any of the variables but those given."""
    inherited = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=inherited | {"RECIPE_NOTICE_AFTER": "0"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def command(*arguments: str) -> str:
    return f"from recipe.cli.main import main\nmain({list(arguments)!r})\n"


def at_first_import(process: subprocess.CompletedProcess[str]) -> dict[str, str | None]:
    (line,) = [line for line in process.stdout.splitlines() if line.startswith("WATCH")]
    seen: dict[str, str | None] = json.loads(line.removeprefix("WATCH"))
    return seen


@pytest.mark.integration
@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="this machine has the two GPUs")
def test_gpu_order_is_set_before_torch_is_imported(tmp_path: Path) -> None:
    arguments = ("device=gpu", "device.order=[1,0]", "device.threads=1", "tracking=none")
    process = fresh(tmp_path, WATCH + command(*arguments), CUDA_VISIBLE_DEVICES="3")
    seen = at_first_import(process)
    assert (seen["CUDA_VISIBLE_DEVICES"], seen["CUDA_DEVICE_ORDER"]) == ("1,0", "PCI_BUS_ID")
    assert (process.returncode, len(process.stderr.splitlines())) == (2, 1)
    assert process.stderr.startswith("recipe: device.order: there is no GPU ")
    assert not list(tmp_path.glob("outputs/runs/*"))  # no run is left behind


@pytest.mark.integration
def test_cpu_threads_are_set_before_torch_is_imported_and_gpus_kept(tmp_path: Path) -> None:
    code = WATCH + command("plan", "device=cpu", "device.threads=3", "data=random", "model=mlp")
    variables = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "4"}
    process = fresh(tmp_path, code + "\n", **variables)
    assert process.returncode == 0, process.stderr
    assert at_first_import(process) == {
        "CUDA_VISIBLE_DEVICES": "",
        "CUDA_DEVICE_ORDER": None,
        "OMP_NUM_THREADS": "3",
        "GOMP_SPINCOUNT": "1000",
    }


@pytest.mark.integration
def test_gpu_order_after_torch_import_is_rejected(tmp_path: Path) -> None:
    arguments = ("device=gpu", "device.order=[1,0]", "tracking=none")
    process = fresh(tmp_path, "import torch\n" + command(*arguments))
    assert process.returncode == 2
    problem, *others = process.stderr.splitlines()
    assert problem.startswith("recipe: device.order: torch is imported already in this process")
    assert "CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER would have no effect" in problem
    assert not others


@pytest.mark.integration
def test_help_does_not_import_torch(tmp_path: Path) -> None:
    process = fresh(tmp_path, WATCH + command("--help"))
    assert process.returncode == 0 and "WATCH" not in process.stdout
    assert "CUDA GPUs by physical index" in process.stdout


def test_environment_variables_already_set_to_the_same_value_are_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpus = Gpu(order=[1, 0], threads=1)
    for name, value in gpus.environment().items():
        monkeypatch.setenv(name, value)
    device.set_environment(gpus.environment())  # torch is imported here, but nothing would change
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ValueError, match=r"already in this process, so CUDA_VISIBLE_DEVICES would"):
        device.set_environment(gpus.environment())
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_gpu_order_sets_cuda_visible_devices_by_physical_index() -> None:
    environment = Gpu(order=[1, 0], threads=1).environment()
    assert environment["CUDA_VISIBLE_DEVICES"] == "1,0"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert environment["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("[0,0]", r"device\.order must not name a GPU twice, got \[0, 0\]"),
        ("[]", r"device\.order must be"),
        ("[-1]", r"device\.order\[0\] must be greater than or equal to 0, got -1"),
        ("1", r"device\.order must be a list, got 1"),
    ],
)
def test_invalid_gpu_order_is_rejected(built: Callable[..., Run], order: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        built("device=gpu", f"device.order={order}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_auto_device_falls_back_to_cpu_and_records_hardware() -> None:
    auto = Auto(threads=1)
    found = auto.select()
    assert found.type in ("cpu", "mps") and torch.get_num_threads() == 1
    assert auto.hardware(found).endswith("(1 threads)")
    assert not any(name.startswith("CUDA") for name in auto.environment())


@pytest.mark.integration
@pytest.mark.parametrize("option", ["cpu", "auto"])
def test_more_threads_than_cores_require_omp_num_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    cores = device.count_available_cores()
    words = ("plan", f"device={option}", "tracking=none", *commands.QUICK[2:])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for threads in (cores + 1, 100_000, 10**18):
        done = commands.run(tmp_path, *words, f"device.threads={threads}")
        (line,) = done.problems
        assert done.status == 2
        assert line.startswith(
            f"recipe: device.threads must be at most {cores}, the number of cores available, "
            f"got {threads}; to use more, also set OMP_NUM_THREADS="
        )
    assert device.thread_count(cores) == cores
    monkeypatch.setenv("OMP_NUM_THREADS", str(cores + 1))
    assert device.thread_count(cores + 1) == cores + 1
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    with pytest.raises(SpecError, match=r"^device.threads: OMP_NUM_THREADS is 100000, and at most"):
        device.thread_count(1)


@pytest.mark.integration
@pytest.mark.parametrize(
    "given", [None, "3"], ids=["the cores it may use", "OMP_NUM_THREADS if that is set"]
)
def test_auto_threads_follow_available_cores_or_omp_num_threads(given: str | None) -> None:
    code = (
        "from recipe.components import device; from recipe.components.device.cpu import Cpu\n"
        "print(Cpu(threads='auto').threads)\n"
        "device.set_environment(Cpu(threads=1).environment())\n"
        "print(Cpu(threads='auto').threads)\n"  # what one run sets is not what the user gave
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    if given:
        environment["OMP_NUM_THREADS"] = given
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert done.stdout.split() == [given or str(cores)] * 2


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has an Apple GPU")
def test_missing_apple_gpu_is_rejected(built: Callable[..., Run]) -> None:
    with pytest.raises(SpecError, match=r"^device=mps: this machine has no Apple GPU; .*auto$"):
        built("device=mps")


def test_container_cpu_quota_is_rounded_down_to_full_cores(tmp_path: Path) -> None:
    """As Linux writes it: microseconds of computing, per so many that pass."""
    cases = {"250000 100000": 2, "50000 100000": 1, "max 100000": None}
    for content, cores in cases.items():
        (tmp_path / "cpu.max").write_text(content + "\n")
        assert device.read_cpu_quota(tmp_path / "cpu.max") == cores
    assert device.read_cpu_quota(tmp_path / "missing") is None
