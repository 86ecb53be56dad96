"""Random bytes of weights and images, and random words of all verbs, as hypothesis draws them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import command_lines
import commands
import numpy as np
import safetensors.torch
import torch
from hypothesis import strategies as st
from PIL import Image

from recipe.cli import main
from recipe.config import option_files
from recipe.config.groups import GROUPS

SMALL = (
    "device=cpu", "device.threads=1", "tracking=none", "epochs=1", "data.batch_size=4",
    "data.eval_batch_size=4",
)  # fmt: skip

NOISE = (
    *SMALL, "data=random", "data.n_train=8", "data.n_val=4", "data.channels=1", "data.size=8",
    "data.classes=2", "model=mlp", "model.hidden=[4]",
)  # fmt: skip

SECONDS = 5
"""Of the processor, for a line that is refused."""

MEGABYTES = 500
"""By which a refused line may grow a process that has imported everything: 1 GB in all."""

HANG = 120
"""Seconds after which a line is ended."""


@dataclass(frozen=True)
class Ended:
    """How a command line ended in a process of its own."""

    status: int
    err: str
    failure: str
    """The exception that came out of it, if one did."""
    seconds: float
    megabytes: float

    def check(self, line: object) -> None:
        """Fails unless the line ended as it should: done, or refused by name, soon and small."""
        assert not self.failure, (line, self.failure)
        assert "Traceback" not in self.err, (line, self.err)
        assert self.status in (0, 1, 2), (line, self)
        if self.status:
            told = [text for text in self.err.splitlines() if text.startswith("recipe: ")]
            assert told or self.status == 1, (line, self)
        if self.status == 2:
            assert self.seconds <= SECONDS and self.megabytes <= MEGABYTES, (line, self)


def here(folder: Path, line: list[str]) -> Ended:
    """Runs a line in this process."""
    started, err, failure = time.process_time(), io.StringIO(), ""
    with contextlib.redirect_stderr(err):
        try:
            done = commands.run(folder, *line)
            status = done.status
            err.write(done.err)
        except SystemExit as end:  # of Hydra's own flags
            status = end.code if isinstance(end.code, int) else 1
        except Exception as error:
            status, failure = 1, f"{type(error).__name__}: {error}"
    return Ended(status, err.getvalue(), failure, time.process_time() - started, 0.0)


def forked(folder: Path, line: list[str]) -> Ended:
    """Runs a line in a fork of this process, whose time and memory are measured."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        _report(folder, line, writer)
    os.close(writer)
    signalled = time.monotonic() + HANG
    with os.fdopen(reader, "rb") as pipe:
        os.set_blocking(pipe.fileno(), False)
        text = b""
        while time.monotonic() < signalled:
            text += pipe.read() or b""
            if os.waitpid(child, os.WNOHANG)[0]:
                text += pipe.read() or b""
                break
            time.sleep(0.005)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Ended(-1, "", f"hangs: not done after {HANG} s", HANG, 0.0)
    return Ended(**json.loads(text)) if text else Ended(-1, "", "ended without a word", 0.0, 0.0)


def _report(folder: Path, line: list[str], writer: int) -> None:
    """Ends the fork."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        before = _memory("VmRSS")
        ended = asdict(here(folder, line)) | {"megabytes": _memory("VmHWM") - before}
        os.write(writer, json.dumps({**ended, "err": ended["err"][-2000:]}).encode())
    finally:
        os._exit(0)


def _memory(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(text.split()[1]) / 1024 for text in lines if text.startswith(f"{key}:"))


def write(folder: Path) -> None:
    """A working directory: images by class, a recorded run, and files of its weights."""
    for index in range(8):
        classes = folder / "images" / ("cat" if index % 2 else "dog")
        classes.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_pixels(index)).save(classes / f"{index}.png")
    done = commands.run(folder, *NOISE, "name=recorded")
    assert done.status == 0, done.err
    (run,) = commands.run_dirs(folder)
    weights = safetensors.torch.load_file(run / "model.safetensors")
    safetensors.torch.save_file(weights, folder / "weights.safetensors")
    torch.save(weights, folder / "weights.pt")
    torch.save({"model": weights}, folder / "legacy.pt", _use_new_zipfile_serialization=False)


def _pixels(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)


def images() -> dict[str, bytes]:
    """A small image in every format that is read, by suffix."""
    found = {}
    for suffix, form in {
        ".png": "PNG", ".jpg": "JPEG", ".gif": "GIF", ".bmp": "BMP", ".webp": "WEBP",
        ".tiff": "TIFF", ".ppm": "PPM",
    }.items():  # fmt: skip
        file = io.BytesIO()
        Image.fromarray(_pixels(0)).save(file, form)
        found[suffix] = file.getvalue()
    return found


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """Bytes of a file some of which are lost, changed, doubled or made up."""
    place = st.integers(0, len(whole) - 1)
    near = st.integers(0, min(200, len(whole) - 1))  # where a format says what comes
    end = near.map(lambda n: len(whole) - 1 - n)
    where = st.one_of(place, near, near, end)
    byte = st.sampled_from((b"\0", b"\xff", b"\x7f", b"\x80", b"9", b"[", b"{"))
    strange = st.one_of(byte, st.binary(min_size=1, max_size=8))

    def changed(changes: list[tuple[int, bytes]]) -> bytes:
        content = bytearray(whole)
        for start, new in changes:
            content[start : start + len(new)] = new
        return bytes(content)

    changes = st.lists(st.tuples(where, strange), min_size=1, max_size=4).map(changed)
    return st.one_of(
        changes,
        changes,
        where.map(lambda cut: whole[:cut]),
        st.tuples(where, strange).map(lambda cut: whole[: cut[0]] + cut[1] + whole[cut[0] :]),
        st.tuples(where, where).map(lambda cut: whole[: cut[0]] + whole[cut[1] :]),
        st.binary(max_size=64),
    )


KEYS = (
    "run", "input", "top", "output", "output_dir", "trust", "sweep", "resume", "baseline", "metric",
    "from", "to", "steps", "spec", "seed", "epochs", "name", "again", "options", "rank", "order",
    "plan", "trials", "seconds", "port", "again", "tricks", "seeds", "direction", "over", "group",
    "checkpoint.every", "summary", "accumulate", "experiment", *GROUPS,
)  # fmt: skip

FLAGS = ("--help", "-h", "--version", "-m", "--multirun", "--cfg", "job", "--yes", "-", "--", "all")

NOT_STARTED = {
    "ablate": ["epochs=0", "hydra/launcher=basic"], "search": ["epochs=0", "hydra/launcher=basic"],
    "-m": ["epochs=0", "hydra/launcher=basic"], "ui": ["nowhere=1"],
}  # fmt: skip
"""What keeps a verb from a sweep or a server."""


def words(place: Mapping[str, str]) -> st.SearchStrategy[list[str]]:
    """Command lines of any verb; `place` are names that exist in the working directory."""
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10)
    typed = st.sampled_from([v for v in command_lines.WILD if v not in command_lines.HUGE])
    value = st.one_of(
        st.sampled_from(sorted(place.values())),
        typed.map(command_lines.typed),
        st.sampled_from(command_lines.RAW),
        st.sampled_from(command_lines.WORDS),
        st.integers(-2, 3).map(str),
        text,
    )
    settings = [
        f"{group}.{name}"
        for group in GROUPS
        for option in option_files.find_options(group)
        for name in command_lines.known(group, option)
        if name not in command_lines.COSTLY and name != "uri"
    ]
    key = st.one_of(st.sampled_from(KEYS), st.sampled_from(KEYS), st.sampled_from(settings))
    prefix = st.sampled_from(("", "", "", "", "--", "+", "~"))
    pair = st.tuples(prefix, key, value).map(lambda drawn: f"{drawn[0]}{drawn[1]}={drawn[2]}")
    option = st.sampled_from([f"{g}={o}" for g in GROUPS for o in option_files.find_options(g)])
    word = st.one_of(
        pair, pair, pair, option, value, st.sampled_from(FLAGS),
        st.sampled_from(command_lines.TOKENS),
    )  # fmt: skip
    verbs = st.sampled_from([*main.VERBS, "-m", ""])
    line = st.tuples(verbs, st.lists(word, max_size=4), st.booleans())
    return line.map(_line).filter(_harmless)


def _line(drawn: tuple[str, list[str], bool]) -> list[str]:
    verb, given, small = drawn
    spec = verb in ("", "train", "plan", "find-lr", "ablate", "search", "-m")
    stops = NOT_STARTED.get(verb, [])
    keys = {text.partition("=")[0] for text in (*given, *stops)}
    groups = {key.partition(".")[0] for key in keys}
    base = [o for o in NOISE if o.partition("=")[0] not in keys] if spec or small else []
    base = [o for o in base if "." not in o or o.partition(".")[0] not in groups]
    return [*filter(None, [verb]), *given, *base, *stops]


def _harmless(line: list[str]) -> bool:
    """Whether a line starts no sweep, no server and talks to nobody."""
    starts = {"-m", "--multirun", "ablate", "search", "ui"} & {*line}
    told = " ".join(line)
    return (
        not (starts and not {"epochs=0", "nowhere=1"} & {*line})
        and "tracking=local" not in told
        and "tracking=server" not in told
    )


Runner = Callable[[Path, list[str]], Ended]
