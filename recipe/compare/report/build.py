"""The report of a comparison: its sentences, tables and figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from recipe.compare import sentences, summary
from recipe.compare.comparison import Comparison, iter_cautions
from recipe.compare.figures.forest import Effect, Mark, plot_forest
from recipe.compare.figures.learning_curves import CurveBand, plot_learning_curves
from recipe.compare.figures.pareto import ParetoPoint, plot_pareto
from recipe.compare.figures.style import save_figure
from recipe.compare.finding import SIGNIFICANCE_LEVEL, Contrast, Finding
from recipe.compare.report.document import Block, Document, Image, RowStyle, Section, Table
from recipe.compare.sentences import format_code
from recipe.compare.summary import VariantSummary
from recipe.evidence.intervals import ConfidenceInterval
from recipe.evidence.paired_test import MAX_EXACT_DIFFERENCES, RANDOM_SIGN_FLIPS
from recipe.formatting import format_list, pluralize

MAX_SENTENCES = 24

MAX_LISTED_TRICKS = 8

MAX_CURVES = 6

VERDICT_MARKS: dict[str, Mark] = {
    "helps": "helps", "hurts": "hurts", "up": "shown", "down": "shown", "no effect": "no effect",
    "too few": "too few",
}  # fmt: skip

VERDICT_STYLES: dict[str, RowStyle] = {"helps": "green", "hurts": "red", "no effect": "yellow"}

CONTRAST_TITLES: dict[Contrast, str] = {
    "alone": "Each trick alone, against the baseline",
    "on top of the others": "Each trick on top of all the others",
    "on top of what was kept": "Each trick on top of what was kept (later rounds)",
    "on average": "Each trick on average over the others (main effects)",
    "together": "Two tricks together (interactions)",
}

TABLE_NAMES = ("variants", *(contrast.replace(" ", "-") for contrast in CONTRAST_TITLES))


@dataclass(frozen=True)
class Report:
    title: str
    findings: Section
    contrasts: Sequence[Section]
    variants: Section
    method: Section

    @property
    def document(self) -> Document:
        return Document(self.title, [self.findings, *self.contrasts, self.variants, self.method])


def build_report(found: Comparison, folder: Path) -> Report:
    """Builds the report, and writes its figures to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return Report(
        title=f"{found.selection.title}: {found.unit.metric}",
        findings=Section("Findings", [*_iter_findings(found), *_draw_forest_plot(found, folder)]),
        contrasts=[
            Section(CONTRAST_TITLES[contrast], [_build_contrast_table(found, contrast)])
            for contrast in dict.fromkeys(finding.contrast for finding in found.findings)
        ],
        variants=Section(
            "Variants",
            [
                *_iter_variant_blocks(found),
                *_draw_pareto_plot(found, folder),
                *_draw_learning_curves(found, folder),
            ],
        ),
        method=Section("How to read this report", list(_describe_method(found))),
    )


def _iter_findings(found: Comparison) -> Iterator[str]:
    if plan := found.selection.greedy_plan:
        kept = plan.kept_variants[-1] if len(plan.kept_variants) > 1 else "nothing"
        yield (
            f"The greedy plan kept {format_code(kept)} and stopped: {plan.stop_reason}. It "
            f"selected by {plan.criterion}, without a test; the changes below show how certain "
            "each step is."
        )
    yield from _iter_overviews(found)
    yield from found.finding_texts[:MAX_SENTENCES]
    if len(found.findings) > MAX_SENTENCES:
        yield f"The tables below have {len(found.findings) - MAX_SENTENCES} more."
    yield from (f"**Caution:** {caution}." for caution in iter_cautions(found))


def _iter_overviews(found: Comparison) -> Iterator[str]:
    """One line with all verdicts for each contrast with several tricks."""
    for contrast, title in CONTRAST_TITLES.items():
        findings = [each for each in found.findings if each.contrast == contrast]
        parts = []
        for verdict, label in sentences.VERDICT_LABELS.items():
            if tricks := [format_code(each.label) for each in findings if each.verdict == verdict]:
                parts.append(f"{label}: {format_list(tricks, MAX_LISTED_TRICKS)}")
        if len(findings) > 1 and contrast != "together":
            yield f"**{title}:** {'; '.join(parts)}."


def _build_contrast_table(found: Comparison, contrast: Contrast) -> Table:
    unit, rows, styles, csv_rows = found.unit, [], [], []
    relevant_difference = unit.get_relevant_difference(found.baseline_mean)[0]
    for each in (finding for finding in found.findings if finding.contrast == contrast):
        interval, verdict = each.interval, sentences.describe_verdict(each, unit)
        bounds = "-"
        if interval and not math.isnan(interval.low):
            bounds = f"{unit.format_change(interval.low)} to {unit.format_change(interval.high)}"
        row = [
            each.label,
            verdict,
            unit.format_change(interval.mean) if interval else "-",
            bounds,
            f"{len(each.seeds)}",
            sentences.format_p_value(each.raw_p_value),
            sentences.format_p_value(each.corrected_p_value),
            f"{each.num_no_effect_runs}/{each.num_runs}" if each.num_no_effect_runs else "-",
        ]
        if contrast != "together":
            clipped = each.clipped_fraction
            row.append(_format_time_ratio(each.time_ratio))
            row.append("-" if clipped is None else f"{100 * clipped:.0f} %")
        rows.append(row)
        styles.append(VERDICT_STYLES.get(each.verdict))
        needed = sentences.estimate_needed_seeds(each, unit, found.baseline_mean)
        csv_rows.append(
            {
                **_make_csv_row(each, verdict),
                "seeds_to_see": needed,
                "to_see": needed and relevant_difference,
            }
        )
    columns = [
        "trick", "verdict", "change (points)" if unit.points_suffix else "change", "95 % interval",
        "pairs", "p", "p (Holm)", "no effect",
        *(["time", "clipped"] if contrast != "together" else []),
    ]  # fmt: skip
    return Table(
        columns,
        rows,
        num_left_aligned=2,
        styles=styles,
        csv_name=contrast.replace(" ", "-"),
        csv_rows=csv_rows,
    )


def _format_time_ratio(ratio: ConfidenceInterval | None) -> str:
    """`+4 % (-2 to +10)`, or `x 0.0071 (0.0065 to 0.0078)`."""
    if ratio is None or not sentences.is_time_ratio_known(ratio):
        return "-"
    if large := sentences.format_large_ratio(ratio):
        return f"x {''.join(large)}"
    mean, low, high = (f"{100 * (value - 1):+.0f}" for value in _get_bounds(ratio))
    return f"{mean} % ({low} to {high})"


def _make_csv_row(finding: Finding, verdict: str) -> dict[str, object]:
    interval, ratio = finding.interval, finding.time_ratio
    return {
        "trick": finding.label,
        "question": finding.contrast,
        "verdict": verdict,
        "mean": interval and interval.mean,
        "low": interval and interval.low,
        "high": interval and interval.high,
        "sd": interval and interval.sd,
        "pairs": len(finding.seeds),
        "raw_p": finding.raw_p_value,
        "p": finding.corrected_p_value,
        "tests": finding.num_tests,
        "seeds_needed": finding.min_seeds,
        "no_effect_runs": finding.num_no_effect_runs,
        "runs": finding.num_runs,
        "time_ratio": ratio and ratio.mean,
        "time_ratio_low": ratio and ratio.low,
        "time_ratio_high": ratio and ratio.high,
        "hit_rate": finding.clipped_fraction,
        "seeds": " ".join(finding.seeds),
        "differences": " ".join(map(repr, map(float, finding.differences))),
    }


def _get_bounds(interval: ConfidenceInterval) -> tuple[float, float, float]:
    return interval.mean, interval.low, interval.high


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


def _iter_variant_blocks(found: Comparison) -> Iterator[Block]:
    unit = found.unit
    if base := ", ".join(found.variants.baseline_levels):
        unfinished = "" if found.has_baseline else ", of which no run is finished"
        yield f"The baseline is {format_code(base)}{unfinished}."
    else:
        yield "All runs are of one variant."
    rows, csv_rows = [], []
    for one in found.summaries:
        row = [
            one.variant.name,
            f"{one.interval.n}",
            unit.format_value(one.interval.mean),
            unit.format_range(one.interval.low, one.interval.high),
        ]
        if unit.direction:
            row += [unit.format_value(one.best_value), "yes" if one.is_efficient else ""]
        row += [
            _format_number(one.epoch_seconds, ".3g"),
            _format_number(one.peak_mb, ",.0f"),
            _format_number(one.num_trainable_parameters, ",.0f"),
            _format_number(one.multiply_adds / 1e6, ",.1f"),
        ]
        rows.append(row)
        csv_rows.append(_make_variant_csv_row(one))
    columns = [
        "variant", "seeds", f"mean {unit.metric}", "95 % interval",
        *(["best seed", "efficient"] if unit.direction else []),
        "s/epoch", "peak MB", "trainable", "M mult-adds",
    ]  # fmt: skip
    yield Table(columns, rows, csv_name="variants", csv_rows=csv_rows)
    if unit.direction:
        yield (
            "`best seed`: the value of the best run. `efficient`: no other variant has a better "
            "mean and isn't slower, or the same mean and is faster; times count as different if "
            "the 95 % interval of their ratio over paired seeds excludes 1. `s/epoch`: the median "
            "over a run's epochs without the first one of each process; unknown for a single epoch."
        )


def _make_variant_csv_row(one: VariantSummary) -> dict[str, object]:
    interval = asdict(one.interval)
    return {
        "variant": one.variant.name,
        "seeds": interval.pop("n"),
        **interval,
        "best": one.best_value,
        "epoch_s": one.epoch_seconds,
        "peak_mb": one.peak_mb,
        "trainable": one.num_trainable_parameters,
        "multiply_adds": one.multiply_adds,
        "efficient": one.is_efficient,
        "runs": " ".join(run.run for run in one.variant.results.values()),
    }


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
    unit, bands = found.unit, []
    curves = summary.compute_learning_curves(found.compared_summaries[:MAX_CURVES], unit)
    for curve in curves:
        bounds = [map(unit.scale_value, _get_bounds(each)) for each in curve.intervals]
        means, lows, highs = zip(*bounds, strict=True)
        label = found.variants.format_label(curve.variant)
        bands.append(CurveBand(label, range(1, len(means) + 1), means, lows, highs))
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
    num_differences = max(
        (sum(value != 0 for value in each.differences) for each in found.findings), default=0
    )
    test = "p is that of the exact two-sided sign-flip test"
    if num_differences > MAX_EXACT_DIFFERENCES:
        test += (
            f" (sampled with {RANDOM_SIGN_FLIPS:,} random signs for more than "
            f"{MAX_EXACT_DIFFERENCES} differences)"
        )
    yield (
        "Runs of one seed share initial weights, data split, sample order, augmentation and "
        "dropout streams, as hashes recorded with each run show. Only such runs are paired, except "
        "for what the compared trick itself makes (a model its weights, a sampler its order). A "
        f"change is the mean of the paired differences, with Student's interval. {test}, then "
        "corrected by Holm's method over the tricks of a table. A trick is shown to help or hurt "
        f"if the corrected p is at most {SIGNIFICANCE_LEVEL:g}; with too few seeds for that, there "
        "is no verdict. A trick that had no effect in any run according to the audit isn't tested."
    )
    num_contrasts = len({each.contrast for each in found.findings})
    if num_contrasts > 1:
        yield (
            "Each table is corrected by itself: if no trick has an effect, at most one table in 20 "
            f"has a wrong verdict, and up to {100 * SIGNIFICANCE_LEVEL * num_contrasts:.0f} % of "
            f"reports with {num_contrasts} tables."
        )
    if found.unit.metric.startswith("best/"):
        return
    values = f"values of {found.unit.metric} after the last epoch"
    if found.unit.is_training_metric:
        values = f"means of {found.unit.metric} over the batches of the last epoch"
    yield (
        f"Numbers are {values} unless stated otherwise; the table at the end of a sweep and "
        "`status` show each run's best epoch. The best of many epochs, `--metric "
        "best/val_accuracy`, is slightly optimistic for every variant. Intervals of variants are "
        "wider than those of paired differences, as they include the spread between seeds. "
        "Intervals of accuracies are clipped to their range."
    )


def _format_number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
