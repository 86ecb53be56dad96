"""As test_random_specs.py, of the other choices."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import random_specs

pytest_plugins = ["random_specs"]

CHOICES = random_specs.CHOICES[1::2]

ENDS: Counter[str] = Counter()
"""How the lines tried so far ended."""


@pytest.mark.usefixtures("torchvision", "undrawn", "impatient")
@pytest.mark.parametrize("choice", CHOICES)
def test_a_random_spec_trains_or_is_refused_by_name(with_data: Path, choice: str) -> None:
    random_specs.try_some(with_data, choice, ENDS)


def test_a_quarter_of_the_lines_trains_and_a_quarter_is_refused() -> None:
    """Or this file would say nothing about one of the two."""
    random_specs.check_shares(ENDS, len(CHOICES))
