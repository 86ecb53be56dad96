"""Random bytes of a weights file and of an image, and random words of every verb: no traceback.

A few, in this process, each time; 500 in the long form, where each line has a process of its own
and its time and memory are measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import commands
import hypothesis
import pytest
import random_inputs
from hypothesis import strategies as st
from random_inputs import NOISE, SMALL, Ended, Runner

FEW = 6
"""Inputs of each kind, in the short form."""

MANY = 168
"""Inputs of each of the three kinds, in the long form."""

Try = Callable[[Path, Runner, int], None]


@pytest.fixture(scope="module")
def with_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("random")
    random_inputs.write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))  # of which ~ is a name
        yield folder


def draw(number: int, seed: str, strategy: st.SearchStrategy[object], check: object) -> None:
    """Calls `check` with as many inputs, the same each time."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=number, database=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(strategy)
    def each(drawn: object) -> None:
        check(drawn)  # type: ignore[operator]

    each()


def weights(folder: Path, run: Runner, number: int) -> None:
    """Bytes of a file that `model.weights` names."""
    ends: Counter[int] = Counter()
    files = {name: (folder / name).read_bytes() for name in FILES}
    bytes_of = {name: random_inputs.damaged(content) for name, content in files.items()}
    drawn = st.sampled_from(FILES).flatmap(lambda name: st.tuples(st.just(name), bytes_of[name]))

    def check(given: tuple[str, bytes]) -> None:
        name, content = given
        path = folder / f"damaged{Path(name).suffix}"
        path.write_bytes(content)
        ended = run(folder, ["plan", *NOISE, f"model.weights={path.name}"])
        ended.check((name, content))
        ends[ended.status] += 1
        assert ended.status in (0, 2)

    draw(number, "weights", drawn, check)
    assert ends[2] > number / 2


FILES = ("weights.safetensors", "weights.pt", "legacy.pt")


def pictures(folder: Path, run: Runner, number: int) -> None:
    """Bytes of an image, among others in a folder and by itself."""
    recorded = commands.run_dirs(folder)[0].name
    whole = random_inputs.images()
    bytes_of = {suffix: random_inputs.damaged(content) for suffix, content in whole.items()}
    suffixes = st.sampled_from(sorted(whole))
    drawn = suffixes.flatmap(lambda suffix: st.tuples(st.just(suffix), bytes_of[suffix]))
    ends: Counter[int] = Counter()

    def check(given: tuple[str, bytes]) -> None:
        suffix, content = given
        path = folder / "images" / "cat" / f"damaged{suffix}"
        path.write_bytes(content)
        try:
            data = ["data=image_folder", "data.path=images", "data.val=0.5", "data.size=8"]
            for line in (
                ["plan", *SMALL, *data, "model=mlp", "model.hidden=[4]"],
                ["predict", f"run={recorded}", f"input={path.relative_to(folder)}"],
            ):
                ended: Ended = run(folder, line)
                ended.check((line, suffix, content))
                ends[ended.status] += 1
        finally:
            path.unlink()

    draw(number, "images", drawn, check)
    assert ends[1] + ends[2] > number / 4


def lines(folder: Path, run: Runner, number: int) -> None:
    """Words of all verbs."""
    place = {
        "run": commands.run_dirs(folder)[0].name, "images": "images", "weights": "weights.pt",
        "image": "images/cat/1.png", "nowhere": "nowhere", "spec": str(
            (commands.run_dirs(folder)[0] / "spec.yaml").relative_to(folder)),
    }  # fmt: skip
    ends: Counter[int] = Counter()

    def check(line: list[str]) -> None:
        ended = run(folder, line)
        ended.check(line)
        ends[ended.status] += 1

    draw(number, "words", random_inputs.words(place), check)
    assert ends[2] > number / 4


KINDS = [weights, pictures, lines]


@pytest.mark.parametrize("kind", KINDS)
def test_random_inputs_cause_no_traceback(with_data: Path, kind: Try) -> None:
    kind(with_data, random_inputs.here, FEW)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_five_hundred_random_inputs_use_bounded_time_and_memory(with_data: Path, kind: Try) -> None:
    kind(with_data, random_inputs.forked, MANY)
