"""The fingerprint: what can change a run's numbers changes it, and nothing else does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import commands
import pytest
import torch
from composed_specs import compose_spec
from hypothesis import given
from hypothesis import strategies as st

from recipe.components.distributed.ddp import DDPStrategy
from recipe.config import source_hash
from recipe.config.groups import FINGERPRINT_EXCLUDED_SETTINGS, GROUPS
from recipe.config.world_size import World
from recipe.errors import SpecError
from recipe.nn.weights import save_weights
from recipe.runner import fingerprint
from recipe.training import build
from recipe.training.collectives import MultiProcess

QUICK = (*commands.QUICK, "tracking=none")

ON_CPU = pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="auto takes the GPU"
)

RICH = (
    *QUICK, "freeze=by_name", "freeze.names=['*1_1*']", "param_groups=by_name",
    "param_groups.rules=[{match: '*1_2*', lr: 0.5}]", "scheduler=warmup_cosine",
    "scheduler.warmup=0.5", "clip=agc", "augment=mixup", "average=ema",
)  # fmt: skip
"""A spec with settings in nearly every group."""


def of(*overrides: str) -> str:
    spec = compose_spec(*overrides)
    return fingerprint.compute(spec, build.build(spec))


SPEC = compose_spec(*RICH)
RUN = build.build(SPEC)


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values that hold no others."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node)
    for key, value in items:
        if isinstance(value, (Mapping, list)) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


COUNTING = [
    (group, path)
    for group in GROUPS
    for path in leaves(getattr(SPEC, group))
    if group not in ("device", "distributed", "tracking")
    and path[0] not in FINGERPRINT_EXCLUDED_SETTINGS.get(group, ())
]


def changed(node: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at that path."""
    if not path:
        return value
    if isinstance(node, Mapping):
        return {**node, path[0]: changed(node[path[0]], path[1:], value)}
    return [changed(v, path[1:], value) if n == path[0] else v for n, v in enumerate(node)]


@given(
    st.sampled_from(COUNTING), st.integers(1000, 2000) | st.text("xyz", min_size=9) | st.just([0.5])
)
def test_changed_setting_changes_fingerprint(
    where: tuple[str, tuple[Any, ...]], value: Any
) -> None:
    group, path = where
    settings: Any = {group: changed(getattr(SPEC, group), path, value)}
    assert fingerprint.compute(replace(SPEC, **settings), RUN) != fingerprint.compute(SPEC, RUN)


def test_distributed_settings_change_the_fingerprint_of_shared_runs_only() -> None:
    other: Any = SPEC.with_settings(
        distributed=changed(SPEC.distributed, ("sync_batchnorm",), True)
    )
    assert fingerprint.compute(other, RUN) == fingerprint.compute(SPEC, RUN)
    found = {fingerprint.compute(SPEC, RUN)}
    for size in (2, 3):
        how = DDPStrategy(sync_batchnorm=False, unused_parameters=False)
        run = replace(
            RUN, collectives=MultiProcess(World(0, size, 0, size), how, shards_before_read=True)
        )
        found |= {fingerprint.compute(SPEC, run), fingerprint.compute(other, run)}
    assert len(found) == 5


@given(st.randoms(use_true_random=False))
def test_fingerprint_ignores_the_order_of_keys(chance: Any) -> None:
    def shuffled(node: Any) -> Any:
        if isinstance(node, Mapping):
            keys = list(node)
            chance.shuffle(keys)
            return {key: shuffled(node[key]) for key in keys}
        return [shuffled(item) for item in node] if isinstance(node, list) else node

    settings: Any = {group: shuffled(getattr(SPEC, group)) for group in GROUPS}
    assert fingerprint.compute(replace(SPEC, **settings), RUN) == fingerprint.compute(SPEC, RUN)


@pytest.mark.parametrize(
    "changed",
    ["seed=1", "epochs=3", "on_nonfinite=skip", "clip=norm", "device.threads=2",
     "data.train_size=99", "augment=flip_crop", "model.dropout=0.1"],
)  # fmt: skip
def test_settings_affecting_results_change_the_fingerprint(changed: str) -> None:
    assert of(*QUICK, changed) != of(*QUICK)


@pytest.mark.parametrize(
    "changed",
    ["name=other", "summary=true", "output_dir=elsewhere", "tracking=local", "data.classes=10",
     "model.classes=10", pytest.param("device=auto", marks=ON_CPU)],
)  # fmt: skip
def test_fingerprint_ignores_names_paths_and_resolved_auto_values(changed: str) -> None:
    assert of(*QUICK, changed) == of(*QUICK)


def test_fingerprint_depends_on_data_content_but_not_on_location(tmp_path: Path) -> None:
    import trainable_options

    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        trainable_options.write(tmp_path / name)
    settings = ("tracking=none", "device.threads=1", "model.widths=[2,4]", "data=image_folder",
                "data.val=0.5", "data.size=8", "data.batch_size=4")  # fmt: skip
    one, other = (f"data.path={tmp_path / name / 'folder'}" for name in ("one", "other"))
    assert of(*settings, one) == of(*settings, other)
    assert of(*settings, one) == of(*settings, one, "data.workers=1")
    image = tmp_path / "other" / "folder" / "cat" / "1.png"
    image.write_bytes((image.parent / "3.png").read_bytes())
    assert of(*settings, one) != of(*settings, other)


def test_fingerprint_depends_on_the_content_of_initial_weights(tmp_path: Path) -> None:
    state = RUN.model.state_dict()
    for name, add in (("one", 0.0), ("same", 0.0), ("other", 1.0)):
        weights = {key: value + add if value.is_floating_point() else value
                   for key, value in state.items()}  # fmt: skip
        save_weights(weights, tmp_path / f"{name}.safetensors")
    found = {
        name: of(*QUICK, f"model.weights={tmp_path / name}.safetensors")
        for name in ("one", "same", "other")
    }
    assert found["one"] == found["same"]
    assert len({found["one"], found["other"], of(*QUICK)}) == 3


def test_weights_given_by_run_id_equal_the_saved_file(tmp_path: Path) -> None:
    assert commands.run(tmp_path, *QUICK).status == 0
    (run,) = commands.run_dirs(tmp_path)
    outputs = f"output_dir={tmp_path / 'outputs'}"
    by_id = of(*QUICK, outputs, f"model.weights={run.name}")
    assert by_id == of(*QUICK, f"model.weights={run / 'model.safetensors'}")
    assert by_id != of(*QUICK)


# code of the user's own

Project = Callable[[Mapping[str, str]], None]

CLIP = """\
import torch
def clip(params, *, factor: float):
    # a comment
    return torch.nn.utils.get_total_norm([p.grad for p in params])
"""

FILES = {
    "conf/clip/mine.yaml": "_target_: mytricks.clip\nfactor: 0.5\n",
    "mytricks/__init__.py": CLIP,
    "mytricks/more/other.py": "import beside\n",
    "beside.py": "a = 1\n",
    "unrelated.py": "a = 1\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Writes files into the working directory, from which packages are imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lambda files: (commands.project(tmp_path, files), None)[1]
    for name in ("mytricks", "beside"):
        sys.modules.pop(name, None)


MINE = (*QUICK, "clip=mine", "trust=[mytricks]")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("mytricks/__init__.py", CLIP.replace("0.5", "0.6").replace("return", "return 2 *")),
        ("mytricks/__init__.py", CLIP.replace("a comment", "another")),
        ("mytricks/more/other.py", "import beside as b\n"),
        ("mytricks/more/third.py", ""),
        ("beside.py", "a = 2\n"),
    ],
)
def test_changed_byte_in_trusted_code_or_its_imports_changes_fingerprint(
    file: str, content: str, project: Project
) -> None:
    project(FILES)
    before = of(*MINE)
    project({file: content})
    assert of(*MINE) != before


@pytest.mark.parametrize(
    "file",
    ["unrelated.py", "mytricks/notes.txt", "mytricks/__pycache__/x.py", "mytricks/.git/x.py"],
)
def test_fingerprint_ignores_files_outside_the_trusted_code(file: str, project: Project) -> None:
    project(FILES)
    before = of(*MINE)
    project({file: "a = 3\n"})
    assert of(*MINE) == before


def test_fingerprint_ignores_trusted_code_unused_by_the_run(project: Project) -> None:
    project(FILES)
    assert of(*QUICK, "trust=[mytricks]") == of(*QUICK)


def test_fingerprint_handles_links_pipes_and_broken_files_in_a_package(
    project: Project, tmp_path: Path
) -> None:
    import os

    project(FILES)
    before = of(*MINE)
    package = tmp_path / "mytricks"
    (package / "circle").symlink_to(package)
    (package / "dead").symlink_to(package / "nowhere")
    assert of(*MINE) == before
    os.mkfifo(package / "pipe.py")  # reading it would never end
    (package / "broken.py").write_bytes(b"\xff\0 import beside (")
    assert of(*MINE) != before


def test_too_much_trusted_code_is_rejected(project: Project, tmp_path: Path) -> None:
    project(FILES)
    with (tmp_path / "mytricks" / "huge.py").open("wb") as file:
        file.truncate(source_hash.MAX_TOTAL_BYTES + 1)
    with pytest.raises(SpecError, match=r"^trust: mytricks has more than 10,000 files or 268"):
        of(*MINE)


def test_fingerprint_uses_the_version_of_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(library))

    def installed(version: str, code: str) -> dict[str, str]:
        content = f"Metadata-Version: 2.1\nName: their-tricks\nVersion: {version}\n"
        record = "their_tricks.py,,\n"
        info = "their_tricks-1.dist-info"
        files = {f"{info}/METADATA": content, f"{info}/RECORD": record, "their_tricks.py": code}
        commands.project(library, files)
        return source_hash.compute_source_ids(["their_tricks"], exclude=frozenset())

    assert installed("1.0", "a = 1") == installed("1.0", "a = 2") == {"their_tricks": "1.0"}
    assert installed("1.1", "a = 2") == {"their_tricks": "1.1"}


def test_fingerprint_includes_the_version_of_the_model_library(torchvision: None) -> None:
    from importlib.metadata import version

    spec = compose_spec("device.threads=1", "tracking=none", "model=torchvision", "data.channels=3",
                    "model.name=mobilenet_v3_small", "data.train_size=64")  # fmt: skip
    found = fingerprint.get_code_versions(spec, build.build(spec))
    assert found == {"torchvision": version("torchvision")}


@pytest.mark.integration
def test_fingerprint_is_the_same_in_another_process_and_folder(
    project: Project, tmp_path: Path
) -> None:
    project(FILES)
    other = tmp_path / "other"
    for name in ("conf/clip/mine.yaml", "mytricks/__init__.py", "mytricks/more/other.py",
                 "beside.py"):  # fmt: skip
        commands.project(other, {name: FILES[name]})
    program = (
        "import sys; sys.path.insert(0, '')\nimport test_fingerprint as t; print(t.of(*t.MINE))"
    )
    path = f"{commands.CHECKOUT}:{commands.CHECKOUT}/tests:{Path(__file__).parent}"
    told = [
        subprocess.run(
            [sys.executable, "-c", program], cwd=folder, check=True, capture_output=True, text=True,
            env=commands.environment(PYTHONPATH=path, PYTHONHASHSEED=hashes),
        ).stdout.strip()
        for folder, hashes in ((tmp_path, "1"), (other, "2"))
    ]  # fmt: skip
    assert told == [of(*MINE)] * 2
