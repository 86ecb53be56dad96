"""The list of options and their cards."""

from __future__ import annotations

from pathlib import Path

import commands
import pytest

from recipe.cli.trick_card import TrickCard, read_cards
from recipe.cli.tricks import render_markdown
from recipe.config import option_files
from recipe.config.groups import GROUPS

PAGE = Path(__file__).parents[2] / "docs" / "tricks.md"

TRICKS = [card for card in read_cards() if card.is_trick or card.group in ("loss", "optimizer")]


def label(card: TrickCard) -> str:
    return card.label


def test_tricks_page_matches_the_option_files(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("--refresh-golden"):
        PAGE.write_text(render_markdown(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == render_markdown()


@pytest.mark.parametrize("card", TRICKS, ids=label)
def test_card_states_benefit_conflicts_and_cost(card: TrickCard) -> None:
    if card.label == "loss=cross_entropy":  # the default is no trick
        return
    expected = {"Helps", "Not with", "Costs"}
    assert expected <= set(card.fields), f"{card.label} lacks {expected - set(card.fields)}"
    assert all(text.endswith(".") for text in card.fields.values())
    assert all(setting.description for setting in card.settings if setting.key.count(".") == 1)


def test_every_option_is_listed_with_its_description(tmp_path: Path) -> None:
    shown = " ".join(commands.run(tmp_path, "tricks").out.split())
    for group in GROUPS:
        for name, option in option_files.find_options(group).items():
            assert f"{name} {option.description}" in shown


def test_card_shows_settings_with_values_and_descriptions(tmp_path: Path) -> None:
    shown = " ".join(commands.run(tmp_path, "tricks", "freeze=vgg_first2").out.split())
    assert "freeze=vgg_first2 Freeze the first two convolutions of a VGG" in shown
    # names is given by its own file, batchnorm by the one that it builds on
    assert "freeze.names=['*convolution1_1.*', '*convolution1_2.*']" in shown
    assert "freeze.batchnorm=eval frozen BatchNorm layers: eval (nothing changes)" in shown
    assert "ablate freeze=vgg_first2 'seed=range(6)'" in shown


def test_unknown_tricks_arguments_are_rejected_with_suggestions(tmp_path: Path) -> None:
    for asked, told in {
        "clp": "tricks: clp: no such group; did you mean clip?",
        "clip=nrm": "tricks: clip=nrm: no such option; did you mean norm?",
        "--outputdir=x": "tricks: --outputdir=x: no such argument; did you mean output_dir?",
    }.items():
        done = commands.run(tmp_path, "tricks", asked)
        assert (done.status, done.problems) == (2, [f"recipe: {told}"])


def test_user_trick_has_card(tmp_path: Path) -> None:
    folder = commands.project(
        tmp_path,
        {
            "conf/clip/halve.yaml": "# Halve every gradient.\n_target_: mine.halve\n"
            "factor: 0.5  # what is left\n# Costs: A pass over the gradients.\n",
            "mine.py": '"""Summary.\n\nHelps: Nobody,\nas far as is known.\nSource: none.\n"""\n\n'
            'def halve(params, *, factor):\n    """Returns the norm. Raises nothing."""\n'
            "raise SystemExit  # a card is read, not run\n",
        },
    )
    shown = [line.strip() for line in commands.run(folder, "tricks", "clip=halve").out.splitlines()]
    assert shown[:3] == ["clip=halve", "Halve every gradient.", "Returns the norm."]
    for line in (
        "Helps  Nobody, as far as is known.",
        "Costs  A pass over the gradients.",
        "Source  none.",
        "clip.factor=0.5",
        "what is left",
    ):
        assert line in shown


def test_card_names_commands_to_record_and_compare_pairs(tmp_path: Path) -> None:
    shown = commands.run(tmp_path, "tricks", "clip=norm").out.splitlines()
    assert shown[shown.index("Your own runs") + 1 :][:2] == [
        "  Record six pairs: python -m recipe ablate clip=norm 'seed=range(6)'",
        "  Compare recorded runs: python -m recipe compare all",
    ]
    (elsewhere,) = [
        line
        for line in commands.run(
            tmp_path, "tricks", "clip=norm", "output_dir=other"
        ).out.splitlines()
        if "compare all" in line
    ]
    assert elsewhere.endswith("python -m recipe compare all output_dir=other")
    assert "Your own runs" not in commands.run(tmp_path, "tricks", "clip=none").out
