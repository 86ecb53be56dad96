"""Error rates and power of `compare` in simulated ablations whose true effects are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from recipe.compare import trick_findings, variants
from recipe.compare.finding import Finding
from recipe.compare.metric_unit import MetricUnit
from recipe.store.results import RunResult

UNIT = MetricUnit("val/accuracy")

SEEDS = 8

TRICKS = ("freeze=vgg_first2", "scheduler=step", "clip=norm", "average=ema")

OFF = {"freeze": "none", "scheduler": "constant", "clip": "none", "average": "none"}

GENERATOR = np.random.default_rng


def ablation(generator: np.random.Generator, effects: dict[str, float]) -> Iterator[RunResult]:
    """The finished runs of an ablation: effects of the seed on all variants, noise on each
    (differences have an sd of 0.8 points), and the effects of the tricks."""
    for seed in range(SEEDS):
        common = generator.normal(0.9, 0.02)
        for on in dict.fromkeys([(), *((trick,) for trick in effects), tuple(effects)]):
            settings = OFF | dict(trick.split("=") for trick in on)
            value = common + generator.normal(0, 0.008 / 2**0.5) + sum(effects[t] for t in on)
            yield RunResult(
                f"run {seed} {on}", "", "FINISHED", seed=f"{seed}", settings=settings,
                tags={"start.weights": f"{seed}"}, last={"val/accuracy": value},
            )  # fmt: skip


def judged(generator: np.random.Generator, effects: dict[str, float]) -> list[Finding]:
    found = variants.build_variants(list(ablation(generator, effects)))
    return [
        each for each in trick_findings.compute_findings(found, UNIT) if each.contrast == "alone"
    ]


@pytest.mark.parametrize(("tricks", "number"), [(1, 1000), (4, 300)])
def test_ablations_without_effect_get_verdict_in_at_most_six_percent(
    tricks: int, number: int
) -> None:
    """With 8 seeds p is a multiple of 1/128: a single trick is significant up to 6/128, 4.7 %; of
    four, the first up to 1/128, which Holm multiplies by 4: at most 4/128."""
    generator, no_effects = GENERATOR(tricks), dict.fromkeys(TRICKS[:tricks], 0.0)
    found = [judged(generator, no_effects) for _ in range(number)]
    assert all(len(each) == tricks for each in found)
    shown = [any(one.verdict in ("helps", "hurts") for one in each) for each in found]
    assert 0 < sum(shown) <= 0.06 * number


def test_one_point_effect_is_detected_with_correct_direction() -> None:
    """The exact test finds it in 83.6 % of comparisons (tests/evidence)."""
    generator = GENERATOR(3)
    alone = Counter(judged(generator, {"clip=norm": 0.01})[0].verdict for _ in range(300))
    assert alone["helps"] >= 0.78 * 300 and alone["hurts"] == 0
    worse = Counter(judged(generator, {"clip=norm": -0.01})[0].verdict for _ in range(50))
    assert worse["hurts"] >= 0.7 * 50 and worse["helps"] == 0
