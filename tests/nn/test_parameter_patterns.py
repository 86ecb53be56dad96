"""Which parameters a name, a glob or a regular expression takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.errors import SpecError
from recipe.nn.parameter_patterns import assign_patterns, match_names

NAMES = [
    "convolution1_1.weight",
    "convolution1_1.bias",
    "convolution1_10.weight",
    "head.fc.weight",
    "fc.weight",
]


@pytest.mark.parametrize(
    ("pattern", "taken"),
    [
        ("convolution1_1.bias", [1]),
        ("convolution1_1", [0, 1]),  # a module: all in it, but not its longer namesake 1_10
        ("head", [3]),
        ("fc", [4]),  # a module's whole name: not head.fc
        ("convolution1_1*", [0, 1, 2]),
        ("*fc.weight", [3, 4]),
        ("convolution1_?.*", [0, 1]),
        ("[hf]*", [3, 4]),
        ("re:^fc", [4]),
        ("re:fc", [3, 4]),  # found anywhere
        ("re:1_1(0)?\\.w", [0, 2]),
        ("weight", []),  # no part of a name but the first
        ("CONVOLUTION1_1", []),
    ],
)
def test_a_pattern_matches_these_names_and_no_others(pattern: str, taken: list[int]) -> None:
    assert match_names(pattern, NAMES) == [NAMES[index] for index in taken]


@given(st.lists(st.text("ab._1", min_size=1, max_size=6), unique=True, max_size=8))
def test_an_exact_name_matches_itself_and_what_it_contains(names: list[str]) -> None:
    for name in names:
        taken = match_names(name, names)
        assert name in taken
        assert all(other == name or other.startswith(f"{name}.") for other in taken)


def test_the_first_pattern_that_matches_a_name_counts() -> None:
    assert assign_patterns("freeze.names", ["fc", "*fc*"], NAMES) == {
        "fc.weight": "fc",
        "head.fc.weight": "*fc*",
    }


def test_every_pattern_without_a_match_is_reported_with_the_nearest_names() -> None:
    with pytest.raises(SpecError) as caught:
        assign_patterns(
            "freeze.names", ["convolution1_1", "convolutoin1_1.bias", "re:(", "re:^bn"], NAMES
        )
    near, broken, none = caught.value.problems
    assert near.startswith("freeze.names: 'convolutoin1_1.bias' matches none of the 5 ")
    assert "(nearest: convolution1_1.bias" in near
    assert broken.startswith("freeze.names: 're:(' is no regular expression")
    assert none.startswith("freeze.names: 're:^bn' matches none of the 5 ")


@pytest.mark.parametrize(
    "pattern",
    ["re:^(?:.?){60}!$", "re:(a*)*!", "re:" + "(a|a)*" * 30 + "!", "*a" * 200 + "!", "[a-z]*" * 90],
)
def test_a_pattern_with_exponential_backtracking_elsewhere_ends_at_once(pattern: str) -> None:
    assert match_names(pattern, ["a" * 2000, *NAMES]) in ([], ["a" * 2000])


@pytest.mark.parametrize(
    "expression", ["^(?!head)", "(?<=1_)1", r"(a)\1", "(?>a)", "a++", "(a{500}){500}"]
)
def test_regular_expression_beyond_linear_time_is_rejected(expression: str) -> None:
    with pytest.raises(SpecError) as caught:
        assign_patterns("freeze.names", [f"re:{expression}"], NAMES)
    (line,) = caught.value.problems
    assert line.startswith(f"freeze.names: {f're:{expression}'!r} is no regular expression: ")
    assert "the syntax is RE2's, without look-around and back-references" in line


def test_too_many_or_too_long_patterns_are_rejected() -> None:
    with pytest.raises(SpecError, match=r"^freeze.names: 1,001 patterns, and at most 1,000 are"):
        assign_patterns("freeze.names", ["fc"] * 1001, NAMES)
    with pytest.raises(SpecError, match=r"^freeze.names: 'aaa.* is a pattern of 1,001 characters"):
        assign_patterns("freeze.names", ["a" * 1001], NAMES)
    with pytest.raises(SpecError) as caught:
        assign_patterns("freeze.names", [f"*nothing{i}" for i in range(900)], NAMES)
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1] == "freeze.names: 880 more match nothing"


def test_an_invalid_expression_is_named() -> None:
    with pytest.raises(ValueError, match=r"^'re:\(' is no regular expression: missing \)"):
        match_names("re:(", NAMES)
