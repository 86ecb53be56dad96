"""Specs of strangers: whatever they say and however they say it, nothing of theirs is called.

The payload makes `RAN` in the working directory. The canary is a variable of the environment that
may not turn up in anything that is printed or written.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import hydra.utils
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from recipe.config import compose
from recipe.nn.weights import save_weights

QUICK = (*commands.QUICK, "epochs=1", "tracking=none")

CANARY = "canary-5e1f"

MKDIR = {"_target_": "os.mkdir", "path": "RAN"}

TEXT = "{_target_: os.mkdir, path: RAN}"

EVIL = """
import os
from functools import partial
from operator import methodcaller
from subprocess import run

os.makedirs("RAN", exist_ok=True)

def payload(*args, **settings):
    os.makedirs("RAN", exist_ok=True)
"""


class Bomb:
    """Unpickling it makes the folder `RAN`."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("RAN",)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a stranger's module and pickles in it, and a secret around it."""
    monkeypatch.setenv("RECIPE_CANARY", CANARY)
    (tmp_path / "evil.py").write_text(EVIL)
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps(Bomb()))
    torch.save({"convolution1_1.weight": Bomb()}, tmp_path / "bomb.pt")
    shutil.copy(tmp_path / "bomb.pt", tmp_path / "bomb.safetensors")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def assert_harmless(home: Path, done: commands.Result) -> None:
    """Refused as a mistake is: a line a problem with its key, and nothing done or told."""
    assert not list(home.rglob("RAN"))
    written = [p.read_bytes() for p in home.rglob("*") if p.is_file()]
    assert not [content for content in written if CANARY.encode() in content]
    assert CANARY not in done.out + done.err
    assert (done.status, done.out) == (2, ""), done.err
    assert done.problems
    for line in done.problems:
        assert line.startswith("recipe: ") and len(line) < 1000 and line.isprintable(), line
    assert not (home / "outputs").exists()


# What the payload is worth: it does run where it is called.


def test_attack_payload_creates_its_folder_when_executed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    ways: list[Callable[[], Any]] = [
        lambda: hydra.utils.instantiate(MKDIR),
        lambda: hydra.utils.instantiate({"path": "${oc.create:'" + TEXT + "'}"}),
        lambda: torch.load("bomb.pt", weights_only=False),
        lambda: pickle.loads(Path("bomb.pkl").read_bytes()),
        lambda: yaml.unsafe_load("!!python/object/apply:os.mkdir [RAN]"),
    ]
    for call in ways:
        call()
        assert Path("RAN").is_dir()
        Path("RAN").rmdir()
    assert os.environ["RECIPE_CANARY"] == CANARY


def test_untrusted_module_runs_after_trust_is_given(home: Path) -> None:
    commands.run(home, "plan", *QUICK, "clip._target_=evil.payload", "trust=[evil]")
    assert (home / "RAN").is_dir()


# The command line, as it may be copied from a page.

COMMAND_LINES = [
    "clip._target_=os.mkdir",
    "clip._target_=os.mkdir +clip.path=RAN",
    "clip._target_=posix.mkdir",
    "clip._target_=builtins.exec",
    "clip._target_=subprocess.run",
    "clip._target_=pickle.loads",
    "clip._target_=functools.partial",
    "clip._target_=operator.methodcaller",
    "clip._target_=importlib.import_module",
    "clip._target_=hydra.utils.instantiate",
    "clip._target_=torch.load",
    "clip._target_=torch.hub.load",
    "clip._target_=torch.os.mkdir",
    "clip._target_=torch.serialization.os.mkdir",
    "clip._target_=torch.nn.modules.module.torch.load",
    "clip._target_=torch.optim.optimizer.os.mkdir",
    "clip._target_=torch.nn.Module.load_state_dict",
    "clip._target_=torch.nn.Module.__init_subclass__",
    "clip._target_=torch.utils.model_zoo.load_url",
    "clip._target_=torch.distributed.run.main",
    "clip._target_=recipe.__main__.main",
    "clip._target_=recipe.cli.main.os.mkdir",
    "clip._target_=recipe.components.clip.norm.norm.__globals__",
    "clip._target_=recipe.components.clip.norm.__builtins__",
    "clip._target_=recipe.components.data.cifar10.pickle.loads",
    "clip._target_=recipe.components.tracking.server.server",
    "clip._target_=evil.payload",
    "clip._target_=evil.os.mkdir",
    "clip._target_='\uff4f\uff53.mkdir'",
    "clip._target_='os.mkdir '",
    "clip._target_='os.\tmkdir'",
    "clip._target_=os..mkdir",
    "clip._target_=[os.mkdir]",
    f"clip._target_={TEXT}",
    "clip._target_=${oc.env:RECIPE_TARGET}",
    "clip._target_=${oc.decode:os.mkdir}",
    "clip._target_=${name} name=os.mkdir",
    "clip._target_=${oc.select:name} name=evil.payload",
    "model._target_=torch.optim.SGD",
    "optimizer._target_=torch.nn.Linear",
    f"model.dropout={TEXT}",
    f"model.widths=[{TEXT}]",
    f"model.widths=[[[{TEXT}]]]",
    f"model.widths=[{{deeper: [{TEXT}]}}]",
    "model.dropout={_target_: torch.nn.Linear, _args_: [{_target_: os.mkdir, path: RAN}]}",
    "model.dropout={_target_: os.mkdir, _partial_: true, path: RAN}",
    "model.dropout={_target_: torch.nn.Flatten, _recursive_: false}",
    "model.dropout={_target_: torch.nn.Flatten, _partial_: 1}",
    f"model.weights={TEXT}",
    "model.weights='\\${oc.create:\"{_target_: os.mkdir, path: RAN}\"}'",
    "name='\\${oc.env:RECIPE_CANARY}'",
    "+clip._args_=[RAN]",
    "+clip._partial_=true",
    "+clip._recursive_=false",
    "+clip._convert_=object",
    "+clip.__class__=os.mkdir",
    "name='a\tb'",
    "name='\x1b[2Jb'",
    "name='a\u2028recipe: all is well'",
    "output_dir='out\x00puts'",
    "output_dir=pipe/runs",
    "output_dir=evil.py",
    "output_dir='~nobody-of-that-name/runs'",
    f"output_dir={'long' * 2000}",
    "data=arrays data.path=/dev/zero data.val=0.5",
    "data=arrays data.path=pipe data.val=0.5",
    "data=arrays data.path=bomb.pkl data.val=0.5",
    "data=image_folder data.path='~nobody-of-that-name' data.val=0.5",
    f"data=image_folder data.path={'long' * 2000} data.val=0.5",
    "model.weights=bomb.pt",
    "model.weights=bomb.pkl",
    "model.weights=bomb.safetensors",
    "model.weights=/dev/zero",
    "model.weights=pipe",
    "model.weights=../../../etc/passwd",
    "model.weights=evil.py",
    f"seed={'9' * 5000}",
    "seed=99999999999999999999999999",
    "epochs=1000000000000",
    f"model.widths={'[' * 400}{']' * 400}",
]


@pytest.mark.parametrize("line", COMMAND_LINES, ids=lambda line: line[:60])
def test_hostile_command_line_is_rejected(
    home: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setenv("RECIPE_TARGET", "os.mkdir")
    words = re.split(r" (?=[+\w.]+=)", line)
    given = {word.split("=")[0] for word in words}
    quick = [word for word in QUICK if word.split("=")[0] not in given]
    quick = [word for word in quick if not (word.startswith("data.") and "data" in given)]
    assert_harmless(home, commands.run(home, *quick, *words))


# A recorded spec, run again as it is.


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    """What an ordinary spec.yaml says."""
    with compose.composition_context():
        content: dict[str, Any] = yaml.safe_load(compose.Job(QUICK, ()).to_spec().to_yaml())
    return content


def replay(home: Path, text: str, *arguments: str) -> commands.Result:
    (home / "spec.yaml").write_text(text, encoding="utf-8")
    return commands.run(home, "spec=spec.yaml", *arguments)


def changed(recorded: dict[str, Any], changes: dict[str, Any]) -> str:
    """The spec with other values under dotted keys."""
    content = json.loads(json.dumps(recorded))
    for key, value in changes.items():
        *path, last = key.split(".")
        node = content
        for name in path:
            node = node[name]
        node[last] = value
    return str(yaml.safe_dump(content))


SERVER = {"_target_": "recipe.components.tracking.server.server", "experiment": "recipe"}

REPLAYS: list[tuple[dict[str, Any], str]] = [
    ({"clip": MKDIR}, "clip=none: _target_ os.mkdir: the package os isn't trusted"),
    ({"clip": MKDIR, "trust": ["os"]}, "the package os isn't trusted"),
    ({"clip._target_": "evil.payload", "trust": ["evil"]}, "the package evil isn't trusted"),
    ({"device": MKDIR}, "the package os isn't trusted"),
    ({"tracking": MKDIR}, "the package os isn't trusted"),
    ({"model.dropout": MKDIR}, "the package os isn't trusted"),
    ({"model.widths": [[MKDIR]]}, "the package os isn't trusted"),
    ({"model.more": {"a": [{"b": MKDIR}]}}, "the package os isn't trusted"),
    ({"model._args_": [MKDIR]}, "the package os isn't trusted"),
    ({"model._partial_": True}, "model._partial_: model=vgg has no such setting"),
    ({"clip._target_": "${oc.env:RECIPE_CANARY}"}, "clip._target_: spec.yaml has a ${...} there"),
    ({"name": "${oc.env:RECIPE_CANARY}"}, "name: spec.yaml has a ${...} there"),
    ({"name": "a ${oc.env:RECIPE_CANARY} b"}, "name: spec.yaml has a ${...} there"),
    ({"name": "\\${oc.env:RECIPE_CANARY}"}, "name: spec.yaml has a ${...} there"),
    ({"output_dir": "${oc.env:RECIPE_CANARY}"}, "output_dir: spec.yaml has a ${...} there"),
    ({"options.clip": "${oc.env:RECIPE_CANARY}"}, "options.clip: spec.yaml has a ${...} there"),
    ({"${now:%Y}": 1}, "${now:%Y}: spec.yaml has a ${...} there"),
    ({"model.widths": ["${oc.decode:4}"]}, "model.widths[0]: spec.yaml has a ${...} there"),
    ({"model": "${oc.create:{_target_: os.mkdir, path: RAN}}"}, "model: spec.yaml has a ${...}"),
    ({"data.path": f"\\${{oc.create:'{TEXT}'}}"}, "data.path: spec.yaml has a ${...} there"),
    ({"name": "${"}, "name: spec.yaml has a ${...} there"),
    ({"model": 3}, "model must be a mapping of settings, got 3"),
    ({"model": None}, "model must be a mapping of settings, got null"),
    ({"model": [MKDIR]}, "model must be a mapping of settings"),
    ({"clip": {}}, "clip=none: _target_ must be the dotted name of a callable, got null"),
    ({"hydra": {"callbacks": {"x": MKDIR}}}, "hydra: no such key"),
    ({"__class__": "os.mkdir"}, "__class__: no such key"),
    ({"options.clip": ["none"]}, "options.clip must be the name of an option"),
    ({"name": "a\nrecipe: all is well"}, "name must have no control characters"),
    ({"name": "\x1b]0;pwned\x07"}, "name must have no control characters"),
    ({"name": 3}, "name must be a string, got 3"),
    ({"seed": 10**30}, "seed must be a whole number of at most 64 bits"),
    ({"model.widths": [10**30]}, "model.widths[0] must be a whole number of at most 64 bits"),
    ({"epochs": 10**12}, "epochs must be less than or equal to 1000000"),
    ({"output_dir": "/nowhere/RAN"}, "output_dir: '/nowhere/RAN' of this spec is outside"),
    ({"output_dir": "../RAN"}, "output_dir: '../RAN' of this spec is outside the working"),
    ({"output_dir": "outputs/../../RAN"}, "output_dir: 'outputs/../../RAN' of this spec is"),
    ({"output_dir": "~/RAN"}, "output_dir: '~/RAN' of this spec is outside the working"),
    ({"output_dir": "~nobody-of-that-name"}, "output_dir: '~nobody-of-that-name' of this spec is"),
    ({"output_dir": "link/RAN"}, "output_dir: 'link/RAN' of this spec is outside the working"),
    ({"output_dir": "a\0b"}, "output_dir must have no control characters"),
    ({"tracking": SERVER | {"uri": "https://stranger.example"}}, "tracking.uri: 'https://stranger"),
    ({"tracking": SERVER | {"uri": "http://127.0.0.1@stranger.example"}}, "on another machine"),
    ({"tracking": SERVER | {"uri": "http://127.0.0.1.stranger.example"}}, "on another machine"),
    ({"tracking": SERVER | {"uri": "http://localhost\\@stranger.example"}}, "on another machine"),
    ({"tracking": SERVER | {"uri": "http://[::1"}}, "on another machine"),
    ({"tracking": SERVER | {"uri": "sqlite:////nowhere/RAN"}}, "on another machine"),
    ({"model.weights": "bomb.pt"}, "model.weights: bomb.pt: holds more than weights"),
    ({"model.weights": "bomb.safetensors"}, "model.weights: bomb.safetensors: can't be read"),
    ({"model.weights": "pipe"}, "model.weights must not be a device or a pipe, got 'pipe'"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), REPLAYS, ids=lambda value: str(value)[:60])
def test_hostile_recorded_spec_is_rejected(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    recorded: dict[str, Any],
    changes: dict[str, Any],
    said: str,
) -> None:
    outside = home / "elsewhere"
    outside.mkdir()
    inside = home / "work"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    for name in ("evil.py", "bomb.pt", "bomb.safetensors", "pipe"):
        shutil.move(home / name, inside / name)
    monkeypatch.setenv("HOME", str(outside))
    changes = json.loads(json.dumps(changes).replace("/nowhere", str(outside)))
    done = replay(inside, changed(recorded, changes))
    assert_harmless(home, done)
    assert said.replace("/nowhere", str(outside)) in done.err
    assert not list(outside.iterdir())


BOMB = "\n".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'lol'}]" for i in range(12)
)

TEXTS = [
    ("name: !!python/object/apply:os.mkdir [RAN]", "isn't that of a plain value"),
    ("name: !!python/name:os.mkdir", "isn't that of a plain value"),
    ("!!python/object/new:os.mkdir [RAN]: 1", "isn't that of a plain value"),
    ("name: !mine x", "isn't that of a plain value"),
    ("name: !!binary UkFO", "isn't that of a plain value"),
    (BOMB, "more than 10000 values, its aliases expanded; give fewer"),
    ("loop: &loop [*loop]", "the alias *loop is undefined, or refers to itself"),
    ("clip: {_target_: recipe.components.clip.none.none}", "duplicate key clip"),
    ("deep: " + "[" * 5000 + "]" * 5000, "more than 30 mappings and lists within each other"),
    ("deep: " + "{a: " * 5000 + "1" + "}" * 5000, "more than 30 mappings and lists"),
    (f"huge: {'9' * 5000}", "a number of 5000 digits"),
    ("? [a, b]\n: c", "can't be read"),
    ("model.path: a\0b", "can't be read"),
    ("more: [", "can't be read"),
    ("more: '" + "x" * 2**20 + "'", "is larger than 1048576 bytes"),
]


@pytest.mark.parametrize(("text", "said"), TEXTS, ids=lambda text: text[:40])
def test_unsafe_malformed_or_oversized_spec_yaml_is_rejected(
    home: Path, recorded: dict[str, Any], text: str, said: str
) -> None:
    whole = {key: value for key, value in recorded.items() if not text.startswith(f"{key}: !")}
    done = replay(home, f"{yaml.safe_dump(whole)}\n{text}\n")
    assert_harmless(home, done)
    assert done.err.startswith("recipe: spec: spec.yaml: ") and said in done.err


@pytest.mark.parametrize("path", ["pipe", "/dev/zero", ".", "nowhere/spec.yaml", "bomb.pkl"])
def test_spec_path_to_a_pipe_or_device_does_not_block(home: Path, path: str) -> None:
    assert_harmless(home, commands.run(home, f"spec={path}"))


def test_command_line_sets_the_destination_of_an_untrusted_spec(
    home: Path, recorded: dict[str, Any]
) -> None:
    text = changed(recorded, {"output_dir": "/nowhere/RAN"})
    assert replay(home, text, "output_dir=mine").status == 0
    assert len(list((home / "mine" / "runs").iterdir())) == 1
    uri = "http://stranger.example"
    text = changed(recorded, {"tracking": SERVER | {"uri": uri}})
    done = commands.run(home, "plan", "spec=spec.yaml")
    assert replay(home, text, "tracking.uri=ftp://x").err == (
        "recipe: tracking.uri must be a string of the form ^https?://[^/], got 'ftp://x'; "
        "give another value\n"
    )
    done = commands.run(home, "plan", "spec=spec.yaml", f"tracking.uri={uri}")
    assert (done.status, done.err) == (0, "")
    done = replay(home, changed(recorded, {}), f"tracking.uri={uri}")
    assert done.err.startswith(
        f"recipe: tracking.uri={uri}: tracking=none of this spec has no such"
    )


def test_replay_accepts_symlinked_output_folder(home: Path, recorded: dict[str, Any]) -> None:
    work, disk = home / "work", home / "disk"
    work.mkdir()
    disk.mkdir()
    (work / "outputs").symlink_to(disk)
    assert replay(work, changed(recorded, {})).status == 0
    assert len(list((disk / "runs").iterdir())) == 1


# Option and experiment files: a user's conf/ is their own code, but what `_target_` may call is
# allowed by name.

GLOBAL = "# @package _global_\n"

EXPERIMENTS = {
    "trust os": f"trust: [os]\nclip: {TEXT}",
    "target": f"clip: {TEXT}",
    "nested target": f"model: {{dropout: [[{TEXT}]]}}",
    "target by interpolation": "name: os.mkdir\nclip: {_target_: '${name}', path: RAN}",
    "target made on the way": f"clip: \"${{oc.create:'{TEXT}'}}\"",
    "target made late": f"model: {{weights: \"\\\\${{oc.create:'{TEXT}'}}\"}}",
    "target from the environment": "clip: {_target_: '${oc.env:RECIPE_TARGET}', path: RAN}",
    "secret by a detour": "name: ${oc.decode:'${oc.${augment.x}:RECIPE_CANARY}'}\n"
    "augment: {x: env}",
    "file elsewhere": "defaults: [../../elsewhere]",
    "python in yaml": "name: !!python/object/apply:os.mkdir [RAN]",
    "aliases": BOMB,
    "depth": "name: " + "[" * 3000 + "]" * 3000,
    "no yaml": "name: [",
    "no mapping": "- clip",
    "loop": "name: ${name}",
    "huge": f"seed: {'9' * 5000}",
    "another group's part": "clip: {_target_: recipe.components.tracking.server.server}",
}


OWN_WORDS = {
    "trust": "trust: [evil]\nclip: {_target_: evil.payload}",
    "environment": "name: ${oc.env:RECIPE_LABEL}",
    "folder": "output_dir: ../elsewhere",
    "server": "defaults: [override /tracking: server]\ntracking: {uri: 'https://elsewhere.example'}",
}


def stranger(home: Path, content: str, group: str = "experiment") -> Path:
    files = {f"conf/{group}/evil.yaml": f"{GLOBAL}# Evil.\n{content}\n"}
    files["conf/hydra/launcher/evil.yaml"] = "_target_: os.mkdir\npath: RAN\n"
    files["conf/hydra/sweeper/evil.yaml"] = "_target_: os.mkdir\npath: RAN\n"
    files["elsewhere.yaml"] = "name: outside\n"
    return commands.project(home, files)


@pytest.mark.parametrize("content", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_hostile_experiment_is_rejected(
    home: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("RECIPE_TARGET", "os.mkdir")
    stranger(home, content.replace("/nowhere", f"{home.parent}/nowhere"))
    quick = [word for word in QUICK if not word.startswith("tracking")]
    assert_harmless(home, commands.run(home, *quick, "experiment=evil"))


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("launcher", "defaults: [override /hydra/launcher: evil]"),
        ("sweeper", "defaults: [override /hydra/sweeper: evil]"),
    ],
)
def test_launcher_or_sweeper_chosen_by_a_file_is_rejected(
    home: Path, kind: str, content: str
) -> None:
    """Hydra would pass over it in silence, as the one of config.yaml has been chosen by then."""
    stranger(home, content)
    done = commands.run(home, "plan", *QUICK, "experiment=evil")
    assert (done.status, done.problems) == (
        2,
        [
            f"recipe: hydra/{kind}: {home}/conf/experiment/evil.yaml chooses it, but only the "
            f"command line can; remove it from the file and give hydra/{kind}=<name> on the "
            "command line"
        ],
    )


@pytest.mark.parametrize("name", ["config", "launcher/basic", "sweeper/basic"])
def test_conf_file_does_not_override_hydra_config(home: Path, name: str) -> None:
    commands.project(home, {f"conf/hydra/{name}.yaml": "_target_: os.mkdir\npath: RAN\n"})
    for verb in ((), ("-m", "seed=0,1")):
        done = commands.run(home, *verb, *QUICK)
        assert_harmless(home, done)


@pytest.mark.parametrize("content", OWN_WORDS.values(), ids=OWN_WORDS)
def test_experiment_in_user_conf_is_trusted_code(
    home: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("RECIPE_LABEL", "label")
    work = stranger(home / "work", content)
    shutil.copy(home / "evil.py", work)
    quick = [word for word in QUICK if not word.startswith("tracking")]
    done = commands.run(work, "plan", *quick, "experiment=evil")
    assert (done.status, done.err) == (0, "")
    assert (work / "RAN").exists() == ("trust" in content)


def test_command_line_and_project_file_may_set_protected_settings(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = """
trust: [mine]
name: ${oc.env:RECIPE_OTHER}
output_dir: ../elsewhere
hydra: {job: {env_set: {MINE: x}}}
"""
    work = commands.project(home / "work", {"conf/project/default.yaml": own})
    monkeypatch.setenv("RECIPE_LABEL", "label")
    monkeypatch.setenv("RECIPE_OTHER", "other")
    done = commands.run(work, *QUICK, "hydra.job.num=3")
    assert (done.status, done.err) == (0, "")
    there = ("output_dir=../there/${oc.env:RECIPE_LABEL}/${name}", "name=us")
    done = commands.run(work, *QUICK, *there)
    assert (done.status, done.err) == (0, "")
    (run,) = (home / "elsewhere" / "runs").iterdir()
    assert commands.read_json(run / "run.json")["name"] == "other"
    assert (home / "there" / "label" / "us" / "runs").is_dir()


# A run that a stranger recorded, and images through it.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert commands.run(folder, *QUICK, "name=net").status == 0
    (run,) = commands.run_dirs(folder)
    return run


def facts(**changes: Any) -> Any:
    def write(run: Path) -> None:
        content = commands.read_json(run / "data.json")
        (run / "data.json").write_text(json.dumps(content | changes))

    return write


def spec_with(**changes: Any) -> Any:
    def write(run: Path) -> None:
        content = yaml.safe_load((run / "spec.yaml").read_text())
        (run / "spec.yaml").write_text(changed(content, changes))

    return write


def file(name: str, content: bytes) -> Any:
    return lambda run: (run / name).write_bytes(content)


def pipe(name: str) -> Any:
    def write(run: Path) -> None:
        (run / name).unlink()
        os.mkfifo(run / name)

    return write


STRANGERS = {
    "model": spec_with(model=MKDIR),
    "trusting itself": spec_with(model={"_target_": "evil.payload"}, trust=["evil"]),
    "nested": spec_with(**{"model.dropout": MKDIR}),
    "by position": spec_with(**{"model._args_": [MKDIR]}),
    "partial": spec_with(**{"model._partial_": True}),
    "secret": spec_with(name="${oc.env:RECIPE_CANARY}"),
    "not a model": spec_with(model={"_target_": "recipe.components.data.random.random"}),
    "no model": spec_with(model=None),
    "weights by pickle": file("model.safetensors", pickle.dumps(Bomb())),
    "no weights": file("model.safetensors", b""),
    "a header without end": file("model.safetensors", b"\xff" * 64),
    "other weights": lambda run: save_weights({"x": torch.ones(1)}, run / "model.safetensors"),
    "huge": spec_with(**{"model.widths": [2**62, 2**62]}),
    "no facts": file("data.json", b"{}"),
    "facts of another kind": file("data.json", b"[1]"),
    "no json": file("data.json", b"\xff"),
    "deep json": file("data.json", b"[" * 100_000),
    "classes": facts(classes="abc"),
    "size": facts(size=[10**9, 10**9]),
    "channels": facts(channels=-1),
    "mean": facts(mean=["os.mkdir"]),
    "too many means": facts(mean=[0.0, 0.0]),
    "pipe for facts": pipe("data.json"),
    "pipe for the spec": pipe("spec.yaml"),
    "pipe for weights": pipe("model.safetensors"),
    "run.json": file("run.json", b"[]"),
    "pipe for run.json": pipe("run.json"),
}


@pytest.mark.parametrize("change", STRANGERS.values(), ids=STRANGERS)
def test_predict_rejects_hostile_run(home: Path, trained: Path, change: Any) -> None:
    run = home / "theirs" / "runs" / "net"
    shutil.copytree(trained, run)
    change(run)
    Image.new("L", (8, 8)).save(home / "image.png")
    done = commands.run(home, "predict", "run=net", "input=image.png", "output_dir=theirs")
    assert_harmless(home, done)


@pytest.mark.parametrize("wanted", ["../evil", "/etc", "..", "*", "", "a\0b", "n\ne", "net/../net"])
def test_run_lookup_rejects_paths(home: Path, trained: Path, wanted: str) -> None:
    shutil.copytree(trained, home / "theirs" / "runs" / "net")
    Image.new("L", (8, 8)).save(home / "image.png")
    done = commands.run(home, "predict", f"run={wanted}", "input=image.png", "output_dir=theirs")
    assert_harmless(home, done)


@pytest.mark.parametrize("given", ["input=pipe", "input=/dev/zero", "input=image.png top=²"])
def test_predict_input_from_a_pipe_or_device_does_not_block(
    home: Path, trained: Path, given: str
) -> None:
    shutil.copytree(trained, home / "theirs" / "runs" / "net")
    Image.new("L", (8, 8)).save(home / "image.png")
    done = commands.run(home, "predict", "run=net", *given.split(" "), "output_dir=theirs")
    assert_harmless(home, done)


def test_class_names_are_printed_literally_without_markup(home: Path, trained: Path) -> None:
    run = home / "theirs" / "runs" / "net"
    shutil.copytree(trained, run)
    names = ["[/bold]", "\x1b[2J", "[link=file:///x]y", *"3456789"]
    facts(classes=names)(run)
    Image.new("L", (8, 8)).save(home / "image.png")
    arguments = ("predict", "run=net", "input=image.png", "top=10", "output_dir=theirs")
    done = commands.run(home, *arguments)
    assert done.status == 0 and "[/bold]" in done.out and "[link=file:///x]y" in done.out
    assert "\\x1b[2J" in done.out and "\x1b" not in done.out


# Data files with more than data in them.


def test_arrays_with_python_objects_are_rejected(home: Path) -> None:
    np.savez(home / "bomb.npz", x=np.array([Bomb()], dtype=object), y=np.array([0]))
    arguments = (*commands.CPU, "data=arrays", "data.path=bomb.npz", "data.val=0.5")
    assert_harmless(home, commands.run(home, *arguments))


def test_cifar_batches_with_code_are_rejected(home: Path) -> None:
    folder = home / "cifar"
    folder.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(pickle.dumps({"data": Bomb(), "labels": [0]}))
    done = commands.run(home, *commands.CPU, "data=cifar10", "data.path=cifar")
    assert_harmless(home, done)


# In processes of their own, as a user would have it.


@pytest.mark.integration
@pytest.mark.parametrize(
    "arguments",
    [
        ("experiment=evil",),
        ("-m", "experiment=evil", "seed=0,1"),
        ("--info", "experiment=evil"),
        ("spec=spec.yaml",),
    ],
    ids=" ".join,
)
def test_full_command_with_hostile_files_has_no_side_effect(
    home: Path, recorded: dict[str, Any], arguments: tuple[str, ...]
) -> None:
    stranger(home, EXPERIMENTS["trust os"])
    (home / "spec.yaml").write_text(changed(recorded, {"clip": MKDIR, "trust": ["os"]}))
    assert_harmless(home, commands.spawn(home, *arguments))
