"""The report of a comparison: its tables, sentences and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.compare import summary
from recipe.compare.comparison import Comparison, cautions
from recipe.compare.figures import save
from recipe.compare.figures.forest import Verdict as Mark
from recipe.compare.figures.save import Band, Effect, Spot
from recipe.compare.finding import LEVEL, Finding, Question
from recipe.compare.report import sentences
from recipe.compare.report.content import (
    Content,
    Document,
    Picture,
    Section,
    Style,
    Table,
)
from recipe.compare.report.markup import code
from recipe.evidence.statistics import EXACT, FLIPS, Interval
from recipe.formatting import counted, listed

MOST_SENTENCES = 24
"""Findings that are told in words; the table has all."""

MOST_NAMES = 8
"""Tricks of one verdict that are named together."""

MOST_CURVES = 6
"""Variants whose curves are drawn."""

MARKS: dict[str, Mark] = {
    "helps": "helps", "hurts": "hurts", "up": "shown", "down": "shown", "no effect": "no effect",
    "too few": "too few",
}  # fmt: skip
"""In the forest plot; the rest is open."""

STYLES: dict[str, Style] = {"helps": "green", "hurts": "red", "no effect": "yellow"}

QUESTIONS: dict[Question, str] = {
    "alone": "Each trick alone, against the baseline",
    "on top of the others": "Each trick on top of all the others",
    "on top of what was kept": "Each trick on top of what was kept (later rounds)",
    "on average": "Each trick on average over the others (main effects)",
    "together": "Two tricks together (interactions)",
}

TABLES = ("variants", *(question.replace(" ", "-") for question in QUESTIONS))
"""The names of all tables that there can be."""


def document(found: Comparison, folder: Path) -> Document:
    """The report; its pictures are written into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = [Section("What was found", [*_told(found), *_forest(found, folder)])]
    asked = dict.fromkeys(each.question for each in found.findings)
    sections += [Section(QUESTIONS[question], [_table(found, question)]) for question in asked]
    variants = [*_variants(found), *_pareto(found, folder), *_curves(found, folder)]
    sections.append(Section("The variants", variants))
    sections.append(Section("How to read this", list(_method(found))))
    return Document(f"{found.selection.title}: {found.unit.metric}", sections)


def _told(found: Comparison) -> Iterator[str]:
    climb = found.selection.greedy
    if climb:
        kept = climb.variants[-1] if len(climb.variants) > 1 else "nothing"
        yield (
            f"The greedy plan kept {code(kept)} and stopped: {climb.stopped}. It went by "
            f"{climb.by}, and by no test; how sure each step is, the changes below say."
        )
    yield from _answers(found)
    told = found.sentences
    yield from told[:MOST_SENTENCES]
    if len(told) > MOST_SENTENCES:
        yield f"The tables below have {len(told) - MOST_SENTENCES} more."
    yield from (f"**Caution:** {caution}." for caution in cautions(found))


def _answers(found: Comparison) -> Iterator[str]:
    """In a line for each question what the sentences say one by one, where there are several."""
    for question, title in QUESTIONS.items():
        asked = [each for each in found.findings if each.question == question]
        by_verdict = {
            words: [code(each.label) for each in asked if each.verdict == verdict]
            for verdict, words in sentences.IN_SHORT.items()
        }
        if len(asked) > 1 and question != "together":
            said = [f"{words}: {listed(n, MOST_NAMES)}" for words, n in by_verdict.items() if n]
            yield f"**{title}:** {'; '.join(said)}."


def _table(found: Comparison, question: Question) -> Table:
    unit, rows, styles, data = found.unit, [], [], []
    to_be_seen = unit.worth_seeing(found.baseline)[0]
    for each in (one for one in found.findings if one.question == question):
        interval = each.interval
        said = sentences.verdict(each, unit)
        more = [f"{each.idle}/{each.runs}" if each.idle else "-"]
        if question != "together":
            more.append(_time(each.slower))
            more.append("-" if each.bites is None else f"{100 * each.bites:.0f} %")
        span = "-"
        if interval and not math.isnan(interval.low):
            span = f"{unit.change(interval.low)} to {unit.change(interval.high)}"
        change = unit.change(interval.mean) if interval else "-"
        ps = [sentences.shown_p(each.raw_p), sentences.shown_p(each.p)]
        rows.append([each.label, said, change, span, f"{len(each.seeds)}", *ps, *more])
        styles.append(STYLES.get(each.verdict))
        to_see = sentences.seeds_to_see(each, unit, found.baseline)
        data.append({**_raw(each, said), "seeds_to_see": to_see, "to_see": to_see and to_be_seen})
    own = [] if question == "together" else ["time", "bit on"]
    change = f"change{unit.points and f' ({unit.points.strip()})'}"
    columns = [
        "trick",
        "verdict",
        change,
        "95 % interval",
        "pairs",
        "p",
        "p (Holm)",
        "no effect",
        *own,
    ]
    name = question.replace(" ", "-")
    return Table(columns, rows, left=2, styles=styles, name=name, data=data)


def _time(slower: Interval | None) -> str:
    """`+4 % (-2 to +10)`: noise where 0 lies within; `x 0.0071 (0.0065 to 0.0078)` if large."""
    if slower is None or not sentences.is_known(slower):
        return "-"
    if ratio := sentences.as_ratio(slower):
        return f"x {''.join(ratio)}"
    mean, low, high = (f"{100 * (value - 1):+.0f}" for value in _bounds(slower))
    return f"{mean} % ({low} to {high})"


def _raw(each: Finding, said: str) -> dict[str, Any]:
    interval = each.interval
    numbers = ("mean", "low", "high", "sd")
    return {
        "trick": each.label, "question": each.question, "verdict": said,
        **{name: getattr(interval, name) if interval else None for name in numbers},
        "pairs": len(each.seeds), "raw_p": each.raw_p, "p": each.p, "tests": each.tests,
        "seeds_needed": each.least,
        "no_effect_runs": each.idle, "runs": each.runs,
        "time_ratio": each.slower.mean if each.slower else None,
        "time_ratio_low": each.slower.low if each.slower else None,
        "time_ratio_high": each.slower.high if each.slower else None,
        "hit_rate": each.bites, "seeds": " ".join(each.seeds),
        "differences": " ".join(map(repr, map(float, each.differences))),
    }  # fmt: skip


def _forest(found: Comparison, folder: Path) -> Iterator[Picture]:
    unit, effects = found.unit, []
    for each in found.findings:
        if each.interval:
            mean, low, high = map(unit.scaled, _bounds(each.interval))
            mark = MARKS.get(each.verdict, "open")
            note = counted(len(each.seeds), "pair")
            effects.append(Effect(each.label, mean, low, high, mark, note, each.question))
    if effects:
        title = f"What each trick changed: {found.selection.title}"
        save.forest(folder / "forest.png", effects, unit=unit.difference, title=title)
        alt = f"The change of {unit.metric} by each trick, with its interval"
        yield Picture("forest.png", alt)


def _bounds(interval: Interval) -> tuple[float, float, float]:
    return interval.mean, interval.low, interval.high


def _variants(found: Comparison) -> Iterator[Content]:
    unit = found.unit
    if base := ", ".join(found.variants.baseline):
        of = "" if found.has_baseline else ", of which no run is finished"
        yield f"The baseline is {code(base)}{of}."
    else:
        yield "All runs are of one variant."
    rows, data = [], []
    for one in found.summaries:
        interval = one.interval
        better = [unit.shown(one.best), "yes" if one.efficient else ""] if unit.sign else []
        rows.append([
            one.variant.name, f"{interval.n}", unit.shown(interval.mean),
            unit.span(interval.low, interval.high), *better,
            _number(one.epoch_s, ".3g"), _number(one.peak_mb, ",.0f"),
            _number(one.trainable, ",.0f"), _number(one.multiply_adds / 1e6, ",.1f"),
        ])  # fmt: skip
        data.append({
            "variant": one.variant.name, "seeds": interval.n, "mean": interval.mean,
            "low": interval.low, "high": interval.high, "sd": interval.sd, "best": one.best,
            "epoch_s": one.epoch_s, "peak_mb": one.peak_mb, "trainable": one.trainable,
            "multiply_adds": one.multiply_adds, "efficient": one.efficient,
            "runs": " ".join(run.run for run in one.variant.runs.values()),
        })  # fmt: skip
    columns = [
        "variant", "seeds", f"mean {unit.metric}", "95 % interval",
        *(["best seed", "efficient"] if unit.sign else []),
        "s/epoch", "peak MB", "trainable", "M mult-adds",
    ]  # fmt: skip
    yield Table(columns, rows, name="variants", data=data)
    if unit.sign:
        yield (
            "`best seed`: the same number, of the run in which it is best. `efficient`: no other "
            "variant is better without taking longer an epoch, or as good and quicker; times count "
            "as different where the 95 % interval of their ratio, seed by seed, leaves out 1; "
            "means of the metric are taken as they are. `s/epoch` is the median of a run's epochs "
            "but the first of each process, so that of a single epoch it isn't known."
        )


def _pareto(found: Comparison, folder: Path) -> Iterator[Picture]:
    unit, spots = found.unit, []
    for one in found.compared:
        mean, low, high = map(unit.scaled, _bounds(one.interval))
        label = found.variants.label(one.variant)
        spots.append(Spot(label, one.epoch_s, mean, low, high, one.efficient))
    if len(spots) > 1 and unit.sign and found.is_one_scale:
        title = f"What it costs: {found.selection.title}"
        save.pareto(
            folder / "pareto.png", spots, cost="seconds an epoch", value=unit.axis, title=title
        )
        yield Picture("pareto.png", f"{unit.metric} of each variant against its seconds an epoch")


def _curves(found: Comparison, folder: Path) -> Iterator[Picture]:
    """Of the baseline and of the best."""
    unit, bands = found.unit, []
    curves = summary.curves(found.compared[:MOST_CURVES], unit)
    for curve in curves:
        means, lows, highs = (
            [unit.scaled(getattr(each, name)) for each in curve.intervals]
            for name in ("mean", "low", "high")
        )
        epochs = list(range(1, len(means) + 1))
        label = found.variants.label(curve.variant)
        bands.append(Band(label, epochs, means, lows, highs))
    if bands:
        title = f"Mean over seeds with its 95 % interval: {found.selection.title}"
        save.curves(folder / "curves.png", bands, label=unit.axis, title=title)
        which = "" if len(found.compared) <= MOST_CURVES else ", of the baseline and the best"
        if any(curve.shortened for curve in curves):
            which += ", as far as all runs of a variant went"
        yield Picture("curves.png", f"{unit.metric} after each epoch{which}")


def _method(found: Comparison) -> Iterator[str]:
    most = max((sum(d != 0 for d in each.differences) for each in found.findings), default=0)
    test = "p is of the exact two-sided sign-flip test"
    if most > EXACT:
        test += f" (of more than {EXACT} differences, of {FLIPS:,} random ones of its signs)"
    yield (
        "Runs of one seed share initial weights, split, order, augmentation and dropout streams, "
        "which hashes recorded with each run show; only such runs are paired, but for what the "
        "compared trick itself makes (a model its weights, a sampler the order), and a change is "
        f"the mean of the paired differences. Its interval is Student's, by itself. {test}, and "
        "then corrected by Holm over the tricks of a table. A trick is shown to help or hurt if "
        f"that is at most {LEVEL:g}; where the seeds are too few for it, no verdict is given. A "
        "trick that the audit saw doing nothing in any run counts as not tried."
    )
    asked = len({each.question for each in found.findings})
    if asked > 1:
        yield (
            "Each table asks a question of its own: where no trick does anything, at most one "
            f"table in 20 has a verdict that is wrong; of reports with {asked} tables, then, up to "
            f"{100 * LEVEL * asked:.0f} %."
        )
    if found.unit.metric.startswith("best/"):
        return
    numbers = f"{found.unit.metric} after the last epoch"
    if found.unit.is_training:
        numbers = f"the mean of {found.unit.metric} over the batches of the last epoch"
    yield (
        f"The numbers are {numbers}, as they are wherever `compare` "
        "says nothing else; the table at a sweep's end and `status` show each run's best epoch. "
        "The best of many epochs, `--metric best/val_accuracy`, is a little too good in every "
        "variant. Intervals of variants are wider than those of paired differences: they hold the "
        "spread between seeds. Intervals of an accuracy end at what there can be."
    )


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
