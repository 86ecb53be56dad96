"""Main effects and interactions of a factorial design, by hand."""

from __future__ import annotations

import itertools

import pytest

from recipe.evidence.factorial import compute_interactions, compute_main_effects


def block(values: dict[str, float]) -> dict[frozenset[str], float]:
    return {frozenset(on): value for on, value in values.items()}


def test_main_effects_and_interactions_match_hand_calculation() -> None:
    first = block({"": 70, "a": 74, "b": 71, "ab": 69})
    second = block({"": 60, "a": 63, "b": 62, "ab": 67})
    # a: (74 + 69) / 2 - (70 + 71) / 2 = 1; with b on -2, off 4
    assert compute_main_effects([first, second], [["a"], ["b"]]) == {
        "a": [1.0, 4.0],
        "b": [-2.0, 3.0],
    }
    assert compute_interactions([first, second], [["a"], ["b"]]) == {("a", "b"): [-6.0, 2.0]}


def test_effects_used_to_generate_results_are_recovered() -> None:
    tricks, effects = ["a", "b", "c"], {"a": 3.0, "b": -1.0, "c": 0.0}
    planted = {("a", "b"): 2.0, ("a", "c"): 0.0, ("b", "c"): -4.0}
    made = {
        frozenset(on): 50.0
        + sum(effects[t] * (0.5 if t in on else -0.5) for t in tricks)
        + sum(k * (0.25 if (a in on) == (b in on) else -0.25) for (a, b), k in planted.items())
        for size in range(4)
        for on in itertools.combinations(tricks, size)
    }
    groups = [[trick] for trick in tricks]
    assert {t: values[0] for t, values in compute_main_effects([made], groups).items()} == effects
    assert {t: values[0] for t, values in compute_interactions([made], groups).items()} == planted


def test_main_effect_of_a_single_trick_is_its_paired_difference() -> None:
    found = compute_main_effects([block({"": 0.5, "a": 0.75})], [["a"]])
    assert found == {"a": [0.25]}
    assert compute_interactions([block({"": 0.5, "a": 0.75})], [["a"]]) == {}


def test_each_group_option_is_compared_with_group_off() -> None:
    found = block({"": 70, "a": 74, "b": 71, "c": 73, "ac": 80, "bc": 72})
    # a: (4 + 7) / 2; b: (1 - 1) / 2; c: (3 + 6 + 1) / 3; a is 3 larger with c on, b 2 smaller
    groups = [["a", "b"], ["c"]]
    assert compute_main_effects([found], groups) == {
        "a": [5.5],
        "b": [0.0],
        "c": [pytest.approx(10 / 3)],
    }
    assert compute_interactions([found], groups) == {("a", "c"): [3.0], ("b", "c"): [-2.0]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"": 1.0, "a": 2.0, "b": 3.0}, "block 1 lacks variant a + b"),
        ({"a": 2.0, "b": 3.0, "ab": 1.0}, "block 1 lacks variant baseline"),
        ({"": 1.0, "a": 2.0, "b": 3.0, "ab": 1.0, "c": 0.0}, "block 1 has the unexpected variant"),
    ],
)
def test_incomplete_factorial_block_raises(values: dict[str, float], message: str) -> None:
    blocks = [block({"": 1, "a": 2, "b": 3, "ab": 4}), block(values)]
    for function in (compute_main_effects, compute_interactions):
        with pytest.raises(ValueError, match=message.replace("+", r"\+")):
            function(blocks, [["a"], ["b"]])
