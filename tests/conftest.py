"""What several test files start from: a composed spec, a run that is built in a moment."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import commands
import composed_specs
import hypothesis
import pytest
import torch

from recipe.config.spec import RunSpec
from recipe.training import build
from recipe.training.run import Run

Compose = Callable[..., RunSpec]
Build = Callable[..., Run]

# a shell that starts something in the background has it ignore Ctrl-C, and so all that it starts
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

RUN_COMMANDS = (commands.run, commands.spawn, commands.start)

SMALL = (
    "device=cpu", "device.threads=1", "tracking=none", "epochs=2",
    "data=random", "data.n_train=20", "data.n_val=10", "data.channels=1", "data.size=16",
    "data.classes=3", "data.batch_size=8", "data.eval_batch_size=4",
    "model.widths=[2,4]",
)  # fmt: skip
"""A narrow VGG on noise: 20 samples in batches of 8, 8 and 4."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--refresh-golden", action="store_true", help="write tests/golden/ anew from what is shown"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    integration = Path(__file__).parent / "integration"
    for item in items:
        if item.path.is_relative_to(integration):
            item.add_marker(pytest.mark.integration)
        if isinstance(item, pytest.Function) and _runs_command(item):
            item.add_marker(pytest.mark.command)


def _runs_command(item: pytest.Function) -> bool:
    """Whether a test, a fixture of it, or a function of the tests that they call runs a command."""
    fixtures = item._fixtureinfo.name2fixturedefs.values()
    pending: list[object] = [item.function, *(each.func for found in fixtures for each in found)]
    seen: set[object] = set()
    while pending:
        function = pending.pop()
        if function in RUN_COMMANDS:
            return True
        if isinstance(function, FunctionType) and function not in seen:
            seen.add(function)
            pending += _find_used_functions(function)
    return False


@functools.cache
def _find_used_functions(function: FunctionType) -> list[object]:
    """The functions of the tests that a function names, in a module of the tests or its own."""
    codes, names = [function.__code__], set[str]()
    while codes:
        code = codes.pop()
        names |= {*code.co_names}
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    used = [function.__globals__.get(name) for name in names]
    modules = [value for value in used if isinstance(value, ModuleType)]
    used += [vars(module).get(name) for module in modules for name in names]
    return [
        value
        for value in used
        if isinstance(value, FunctionType)
        and Path(value.__code__.co_filename).is_relative_to(Path(__file__).parent)
    ]


@pytest.fixture(autouse=True)
def isolated_random_streams() -> Iterator[None]:
    """What a test draws from torch's global stream, the next test doesn't notice."""
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture
def composed() -> Compose:
    """`composed(*overrides)`: the spec of a command line, with none of ours added."""

    return composed_specs.compose_spec


@pytest.fixture
def small(composed: Compose, tmp_path: Path) -> Compose:
    """`small(*overrides)`: the spec of those overrides on top of SMALL, for a folder of the test's
    own."""

    def spec(*overrides: str) -> RunSpec:
        given = {override.split("=")[0] for override in overrides}
        keys = {override: override.split("=")[0] for override in SMALL}
        # another option of a group has other settings
        base = [o for o, key in keys.items() if not {key, key.split(".")[0]} & given]
        return composed(*base, f"output_dir={tmp_path / 'outputs'}", *overrides)

    return spec


@pytest.fixture
def built(small: Compose) -> Build:
    """`built(*overrides)`: the run of those overrides on top of SMALL."""
    return lambda *overrides: build.build(small(*overrides))


@pytest.fixture(scope="session")
def torchvision() -> None:
    """Makes torchvision importable beside a torch without its compiled operators."""
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(library)  # operators go when their library does
        import torchvision  # noqa: F401


KEPT: list[torch.library.Library] = []
