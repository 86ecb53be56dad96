"""The report of a comparison: its tables, sentences and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.compare import sentences, summary
from recipe.compare.comparison import Comparison, iter_cautions
from recipe.compare.figures.forest import Effect, Mark, plot_forest
from recipe.compare.figures.learning_curves import CurveBand, plot_learning_curves
from recipe.compare.figures.pareto import ParetoPoint, plot_pareto
from recipe.compare.figures.style import save_figure
from recipe.compare.finding import SIGNIFICANCE_LEVEL, Contrast, Finding
from recipe.compare.report.document import Block, Document, Image, RowStyle, Section, Table
from recipe.compare.sentences import format_code
from recipe.evidence.intervals import ConfidenceInterval
from recipe.evidence.paired_test import MAX_EXACT_DIFFERENCES, RANDOM_SIGN_FLIPS
from recipe.formatting import format_list, pluralize

MAX_SENTENCES = 24
"""Findings that are told in words; the table has all."""

MAX_NAMES = 8
"""Tricks of one verdict that are named together."""

MAX_CURVES = 6
"""Variants whose curves are drawn."""

VERDICT_MARKS: dict[str, Mark] = {
    "helps": "helps", "hurts": "hurts", "up": "shown", "down": "shown", "no effect": "no effect",
    "too few": "too few",
}  # fmt: skip
"""In the forest plot; the rest is open."""

VERDICT_STYLES: dict[str, RowStyle] = {"helps": "green", "hurts": "red", "no effect": "yellow"}

CONTRAST_TITLES: dict[Contrast, str] = {
    "alone": "Each trick alone, against the baseline",
    "on top of the others": "Each trick on top of all the others",
    "on top of what was kept": "Each trick on top of what was kept (later rounds)",
    "on average": "Each trick on average over the others (main effects)",
    "together": "Two tricks together (interactions)",
}

TABLE_NAMES = ("variants", *(question.replace(" ", "-") for question in CONTRAST_TITLES))
"""The names of all tables that there can be."""


def build_document(comparison: Comparison, folder: Path) -> Document:
    """The report; its pictures are written into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = [
        Section(
            "What was found", [*_iter_findings(comparison), *_draw_forest_plot(comparison, folder)]
        )
    ]
    requested = dict.fromkeys(each.contrast for each in comparison.findings)
    sections += [
        Section(CONTRAST_TITLES[question], [_build_contrast_table(comparison, question)])
        for question in requested
    ]
    variants = [
        *_iter_variant_blocks(comparison),
        *_draw_pareto_plot(comparison, folder),
        *_draw_learning_curves(comparison, folder),
    ]
    sections.append(Section("The variants", variants))
    sections.append(Section("How to read this", list(_describe_method(comparison))))
    return Document(f"{comparison.selection.title}: {comparison.unit.metric}", sections)


def _iter_findings(found: Comparison) -> Iterator[str]:
    climb = found.selection.greedy_plan
    if climb:
        kept = climb.kept_variants[-1] if len(climb.kept_variants) > 1 else "nothing"
        yield (
            f"The greedy plan kept {format_code(kept)} and stopped: {climb.stop_reason}. It went "
            "by "
            f"{climb.criterion}, and by no test; how sure each step is, the changes below say."
        )
    yield from _iter_overviews(found)
    message = found.finding_texts
    yield from message[:MAX_SENTENCES]
    if len(message) > MAX_SENTENCES:
        yield f"The tables below have {len(message) - MAX_SENTENCES} more."
    yield from (f"**Caution:** {caution}." for caution in iter_cautions(found))


def _iter_overviews(found: Comparison) -> Iterator[str]:
    """In a line for each question what the sentences say one by one, where there are several."""
    for question, title in CONTRAST_TITLES.items():
        requested = [each for each in found.findings if each.contrast == question]
        by_verdict = {
            words: [format_code(each.label) for each in requested if each.verdict == verdict]
            for verdict, words in sentences.VERDICT_LABELS.items()
        }
        if len(requested) > 1 and question != "together":
            message = [
                f"{words}: {format_list(n, MAX_NAMES)}" for words, n in by_verdict.items() if n
            ]
            yield f"**{title}:** {'; '.join(message)}."


def _build_contrast_table(found: Comparison, question: Contrast) -> Table:
    unit, rows, styles, data = found.unit, [], [], []
    to_be_seen = unit.get_relevant_difference(found.baseline_mean)[0]
    for each in (one for one in found.findings if one.contrast == question):
        interval = each.interval
        message = sentences.describe_verdict(each, unit)
        more = [f"{each.num_no_effect_runs}/{each.num_runs}" if each.num_no_effect_runs else "-"]
        if question != "together":
            more.append(_format_time_ratio(each.time_ratio))
            more.append(
                "-" if each.clipped_fraction is None else f"{100 * each.clipped_fraction:.0f} %"
            )
        span = "-"
        if interval and not math.isnan(interval.low):
            span = f"{unit.format_change(interval.low)} to {unit.format_change(interval.high)}"
        change = unit.format_change(interval.mean) if interval else "-"
        ps = [
            sentences.format_p_value(each.raw_p_value),
            sentences.format_p_value(each.corrected_p_value),
        ]
        rows.append([each.label, message, change, span, f"{len(each.seeds)}", *ps, *more])
        styles.append(VERDICT_STYLES.get(each.verdict))
        to_see = sentences.estimate_needed_seeds(each, unit, found.baseline_mean)
        data.append(
            {
                **_make_csv_row(each, message),
                "seeds_to_see": to_see,
                "to_see": to_see and to_be_seen,
            }
        )
    own = [] if question == "together" else ["time", "clipped"]
    change = f"change{unit.points_suffix and f' ({unit.points_suffix.strip()})'}"
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
    return Table(columns, rows, num_left_aligned=2, styles=styles, csv_name=name, csv_rows=data)


def _format_time_ratio(slower: ConfidenceInterval | None) -> str:
    """`+4 % (-2 to +10)`: noise where 0 lies within; `x 0.0071 (0.0065 to 0.0078)` if large."""
    if slower is None or not sentences.is_time_ratio_known(slower):
        return "-"
    if ratio := sentences.format_large_ratio(slower):
        return f"x {''.join(ratio)}"
    mean, low, high = (f"{100 * (value - 1):+.0f}" for value in _get_bounds(slower))
    return f"{mean} % ({low} to {high})"


def _make_csv_row(each: Finding, said: str) -> dict[str, Any]:
    interval = each.interval
    numbers = ("mean", "low", "high", "sd")
    return {
        "trick": each.label,
        "question": each.contrast,
        "verdict": said,
        **{name: getattr(interval, name) if interval else None for name in numbers},
        "pairs": len(each.seeds),
        "raw_p": each.raw_p_value,
        "p": each.corrected_p_value,
        "tests": each.num_tests,
        "seeds_needed": each.min_seeds,
        "no_effect_runs": each.num_no_effect_runs,
        "runs": each.num_runs,
        "time_ratio": each.time_ratio.mean if each.time_ratio else None,
        "time_ratio_low": each.time_ratio.low if each.time_ratio else None,
        "time_ratio_high": each.time_ratio.high if each.time_ratio else None,
        "hit_rate": each.clipped_fraction,
        "seeds": " ".join(each.seeds),
        "differences": " ".join(map(repr, map(float, each.differences))),
    }


def _draw_forest_plot(found: Comparison, folder: Path) -> Iterator[Image]:
    unit, effects = found.unit, []
    for each in found.findings:
        if each.interval:
            mean, low, high = map(unit.scale_value, _get_bounds(each.interval))
            mark = VERDICT_MARKS.get(each.verdict, "open")
            note = pluralize(len(each.seeds), "pair")
            effects.append(Effect(each.label, mean, low, high, mark, note, each.contrast))
    if effects:
        title = f"Effect of each trick: {found.selection.title}"
        figure = plot_forest(effects, unit=unit.difference_label, title=title)
        save_figure(figure, folder / "forest.png")
        yield Image("forest.png", f"The change of {unit.metric} by each trick, with its interval")


def _get_bounds(interval: ConfidenceInterval) -> tuple[float, float, float]:
    return interval.mean, interval.low, interval.high


def _iter_variant_blocks(found: Comparison) -> Iterator[Block]:
    unit = found.unit
    if base := ", ".join(found.variants.baseline_levels):
        of = "" if found.has_baseline else ", of which no run is finished"
        yield f"The baseline is {format_code(base)}{of}."
    else:
        yield "All runs are of one variant."
    rows, data = [], []
    for one in found.summaries:
        interval = one.interval
        better = (
            [unit.format_value(one.best_value), "yes" if one.is_efficient else ""]
            if unit.direction
            else []
        )
        rows.append(
            [
                one.variant.name,
                f"{interval.n}",
                unit.format_value(interval.mean),
                unit.format_range(interval.low, interval.high),
                *better,
                _format_number(one.epoch_seconds, ".3g"),
                _format_number(one.peak_mb, ",.0f"),
                _format_number(one.num_trainable_parameters, ",.0f"),
                _format_number(one.multiply_adds / 1e6, ",.1f"),
            ]
        )
        data.append(
            {
                "variant": one.variant.name,
                "seeds": interval.n,
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "sd": interval.sd,
                "best": one.best_value,
                "epoch_s": one.epoch_seconds,
                "peak_mb": one.peak_mb,
                "trainable": one.num_trainable_parameters,
                "multiply_adds": one.multiply_adds,
                "efficient": one.is_efficient,
                "runs": " ".join(run.run for run in one.variant.results.values()),
            }
        )
    columns = [
        "variant", "seeds", f"mean {unit.metric}", "95 % interval",
        *(["best seed", "efficient"] if unit.direction else []),
        "s/epoch", "peak MB", "trainable", "M mult-adds",
    ]  # fmt: skip
    yield Table(columns, rows, csv_name="variants", csv_rows=data)
    if unit.direction:
        yield (
            "`best seed`: the same number, of the run in which it is best. `efficient`: no other "
            "variant is better without taking longer an epoch, or as good and quicker; times count "
            "as different where the 95 % interval of their ratio, seed by seed, leaves out 1; "
            "means of the metric are taken as they are. `s/epoch` is the median of a run's epochs "
            "but the first of each process, so that of a single epoch it isn't known."
        )


def _draw_pareto_plot(found: Comparison, folder: Path) -> Iterator[Image]:
    unit, points = found.unit, []
    for one in found.compared_summaries:
        mean, low, high = map(unit.scale_value, _get_bounds(one.interval))
        label = found.variants.format_label(one.variant)
        points.append(ParetoPoint(label, one.epoch_seconds, mean, low, high, one.is_efficient))
    if len(points) > 1 and unit.direction and found.has_single_scale:
        title = f"Cost of each variant: {found.selection.title}"
        cost = "seconds per epoch"
        figure = plot_pareto(points, cost=cost, value=unit.axis_label, title=title)
        save_figure(figure, folder / "pareto.png")
        yield Image("pareto.png", f"{unit.metric} of each variant against its seconds per epoch")


def _draw_learning_curves(found: Comparison, folder: Path) -> Iterator[Image]:
    """Those of the baseline and of the best variants."""
    unit, bands = found.unit, []
    curves = summary.compute_learning_curves(found.compared_summaries[:MAX_CURVES], unit)
    for curve in curves:
        means, lows, highs = (
            [unit.scale_value(getattr(each, name)) for each in curve.intervals]
            for name in ("mean", "low", "high")
        )
        epochs = list(range(1, len(means) + 1))
        label = found.variants.format_label(curve.variant)
        bands.append(CurveBand(label, epochs, means, lows, highs))
    if bands:
        title = f"Mean over seeds with its 95 % interval: {found.selection.title}"
        figure = plot_learning_curves(bands, label=unit.axis_label, title=title)
        save_figure(figure, folder / "curves.png")
        alt = f"{unit.metric} after each epoch"
        if len(found.compared_summaries) > MAX_CURVES:
            alt += ", of the baseline and the best variants"
        if any(curve.is_truncated for curve in curves):
            alt += ", up to the last epoch that all runs of a variant have"
        yield Image("curves.png", alt)


def _describe_method(found: Comparison) -> Iterator[str]:
    most = max((sum(d != 0 for d in each.differences) for each in found.findings), default=0)
    test = "p is of the exact two-sided sign-flip test"
    if most > MAX_EXACT_DIFFERENCES:
        test += (
            f" (of more than {MAX_EXACT_DIFFERENCES} differences, of {RANDOM_SIGN_FLIPS:,} "
            "random ones of its signs)"
        )
    yield (
        "Runs of one seed share initial weights, split, order, augmentation and dropout streams, "
        "which hashes recorded with each run show; only such runs are paired, but for what the "
        "compared trick itself makes (a model its weights, a sampler the order), and a change is "
        f"the mean of the paired differences. Its interval is Student's, by itself. {test}, and "
        "then corrected by Holm over the tricks of a table. A trick is shown to help or hurt if "
        f"that is at most {SIGNIFICANCE_LEVEL:g}; where the seeds are too few for it, no verdict "
        "is given. A "
        "trick that the audit saw doing nothing in any run counts as not tried."
    )
    requested = len({each.contrast for each in found.findings})
    if requested > 1:
        yield (
            "Each table asks a question of its own: where no trick does anything, at most one "
            f"table in 20 has a verdict that is wrong; of reports with {requested} tables, then, "
            f"up to {100 * SIGNIFICANCE_LEVEL * requested:.0f} %."
        )
    if found.unit.metric.startswith("best/"):
        return
    numbers = f"{found.unit.metric} after the last epoch"
    if found.unit.is_training_metric:
        numbers = f"the mean of {found.unit.metric} over the batches of the last epoch"
    yield (
        f"The numbers are {numbers}, unless stated otherwise; "
        "the table at a sweep's end and `status` show each run's best epoch. "
        "The best of many epochs, `--metric best/val_accuracy`, is a little too good in every "
        "variant. Intervals of variants are wider than those of paired differences: they hold the "
        "spread between seeds. Intervals of an accuracy end at what there can be."
    )


def _format_number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
