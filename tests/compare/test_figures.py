import dataclasses
import itertools
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cbook import is_math_text
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.figure import Figure
from PIL import Image

from recipe.compare.figures.forest import Effect, plot_forest
from recipe.compare.figures.learning_curves import CurveBand, plot_learning_curves
from recipe.compare.figures.pareto import ParetoPoint, plot_pareto
from recipe.compare.figures.style import save_figure
from recipe.compare.variants import Factor, Levels, Variant, VariantSet

NAN, INF = math.nan, math.inf

EFFECTS = (
    Effect("clip=norm", 0.4, -0.1, 0.9, "open", "8 pairs", "alone"),
    Effect("scheduler=step", 1.9, 1.2, 2.6, "helps", "8 pairs", "alone"),
    Effect("freeze=vgg_first2", -0.8, -1.5, -0.1, "hurts", "8 pairs", "left out"),
    Effect("average=ema", 0.0, 0.0, 0.0, "no effect", "8 pairs", "alone"),
)

SPOTS = (
    ParetoPoint("baseline", 1.0, 95.0, 94.5, 95.5, True),
    ParetoPoint("clip=norm", 1.1, 94.8, 94.0, 95.6, False),
    ParetoPoint("all", 2.0, 97.0, 96.0, 98.0, True),
)

numbers = st.one_of(st.floats(), st.sampled_from([0.0, -0.0, 1.0, 1e308, 5e-324]))
few = settings(max_examples=12)


def effects_figure(*effects: Effect) -> Figure:
    return plot_forest(effects, unit="points", title="Effects")


def spots_figure(*spots: ParetoPoint) -> Figure:
    return plot_pareto(spots, cost="seconds per epoch", value="val/accuracy", title="Costs")


def bands_figure(*bands: CurveBand) -> Figure:
    return plot_learning_curves(bands, label="val/accuracy", title="Curves")


def band(name: str, mean: Sequence[float], half: float = 0.5) -> CurveBand:
    return CurveBand(
        name,
        range(1, len(mean) + 1),
        mean,
        [value - half for value in mean],
        [value + half for value in mean],
    )


def axes_of(figure: Figure) -> Axes:
    [axes] = figure.axes
    return axes


def rows(figure: Figure) -> dict[float, str]:
    """The labels of the y axis by their position."""
    axes = axes_of(figure)
    names = [label.get_text() for label in axes.get_yticklabels()]
    return dict(zip(map(float, axes.get_yticks()), names, strict=True))


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in axes_of(figure).texts]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for drawn in figure.legends for text in drawn.get_texts()]


def marks(figure: Figure) -> dict[tuple[float, float], Any]:
    """The markers by their position."""
    found = {}
    for line in axes_of(figure).lines:
        if line.get_marker() != "None":
            [(x, y)] = np.asarray(line.get_xydata()).tolist()
            found[x, y] = line.get_marker()
    return found


def intervals(figure: Figure) -> dict[float, tuple[float, float]]:
    """The bounds of the intervals by their y position."""
    found = {}
    for line in axes_of(figure).lines:
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        if len(x) == 2 and y[0] == y[1] == round(y[0]):
            found[float(y[0])] = (float(x[0]), float(x[1]))
    return found


def scattered(figure: Figure) -> list[list[tuple[float, float]]]:
    """The positions of the efficient points, and of the others."""
    some = [one for one in axes_of(figure).collections if isinstance(one, PathCollection)]
    return [[(float(x), float(y)) for x, y in np.asarray(one.get_offsets())] for one in some]


def drawn(figure: Figure) -> Any:
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        canvas.draw()  # type: ignore[no-untyped-call]
    return canvas.get_renderer()  # type: ignore[no-untyped-call]


def test_figures_are_reproducible_png_files_of_fixed_width(tmp_path: Path) -> None:
    def draw(folder: Path) -> list[bytes]:
        folder.mkdir()
        bands = [band("a", [1.0, 2.0, 2.5])]
        files = [
            save_figure(effects_figure(*EFFECTS), folder / "forest.png"),
            save_figure(spots_figure(*SPOTS), folder / "pareto.png"),
            save_figure(bands_figure(*bands), folder / "curves.png"),
        ]
        for file in files:
            with Image.open(file) as image:
                image.load()
                assert (image.format, image.width) == ("PNG", 1200)
                assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
                assert len(image.convert("RGB").getcolors(2**24) or []) > 50
        return [file.read_bytes() for file in files]

    first = draw(tmp_path / "first")
    with matplotlib.rc_context({"axes.facecolor": "black", "text.usetex": True, "font.size": 30}):
        assert draw(tmp_path / "second") == first


def test_each_effect_has_row_below_its_group_name() -> None:
    figure = effects_figure(*EFFECTS)
    assert rows(figure) == {
        0: "alone", -1: "clip=norm", -2: "scheduler=step", -3: "average=ema",
        -4: "left out", -5: "freeze=vgg_first2",
    }  # fmt: skip
    assert intervals(figure) == {-1: (-0.1, 0.9), -2: (1.2, 2.6), -3: (0.0, 0.0), -5: (-1.5, -0.1)}
    assert rows(effects_figure(Effect("a", 1, 0, 2, "open"))) == {0: "a"}


def test_verdicts_are_drawn_as_markers_and_named_in_the_legend() -> None:
    figure = effects_figure(*EFFECTS)
    assert marks(figure) == {(0.4, -1): "o", (1.9, -2): "^", (0.0, -3): "X", (-0.8, -5): "v"}
    assert legend(figure) == [
        "shown to help", "shown to hurt", "inconclusive", "no effect",
    ]  # fmt: skip
    assert legend(effects_figure(EFFECTS[1])) == ["shown to help"]


def test_forest_plot_rows_show_mean_interval_and_pairs() -> None:
    assert words(effects_figure(*EFFECTS)) == [
        "+0.40 (-0.10 to +0.90), 8 pairs",
        "+1.90 (+1.20 to +2.60), 8 pairs",
        "0 (0 to 0), 8 pairs",
        "-0.80 (-1.50 to -0.10), 8 pairs",
    ]
    assert words(effects_figure(Effect("a", 12.34, -40, 45.67, "open"))) == [
        "+12.3 (-40.0 to +45.7)"
    ]
    assert words(effects_figure(Effect("a", 0.012, 0.004, 0.02, "helps"))) == [
        "+0.012 (+0.004 to +0.020)"
    ]


def test_effect_axis_includes_zero_and_all_intervals() -> None:
    low, high = axes_of(effects_figure(EFFECTS[1])).get_xlim()
    assert low < 0 and high > 2.6
    low, high = axes_of(effects_figure(*EFFECTS)).get_xlim()
    assert low < -1.5 and high > 2.6
    low, high = axes_of(effects_figure(EFFECTS[3])).get_xlim()
    assert low < 0 < high
    zero = axes_of(effects_figure(EFFECTS[1])).lines[0]
    assert list(np.asarray(zero.get_xdata())) == [0, 0]


def test_single_pair_is_drawn_without_an_interval() -> None:
    figure = effects_figure(Effect("clip", 0.4, NAN, NAN, "open", "1 pair"))
    assert intervals(figure) == {}
    assert marks(figure) == {(0.4, 0): "o"}
    assert words(figure) == ["+0.40, 1 pair"]


def test_infinite_bound_is_drawn_as_arrow_at_axis_end() -> None:
    figure = effects_figure(Effect("clip", 0.4, -INF, 2.0, "open"))
    left, right = axes_of(figure).get_xlim()
    assert intervals(figure) == {0: (left, 2.0)}
    assert marks(figure) == {(0.4, 0): "o", (left, 0): "<"}
    assert right > 2.0
    assert words(figure) == ["+0.40 (-∞ to +2.00)"]


def test_effect_without_mean_is_labelled_not_measured() -> None:
    figure = effects_figure(Effect("clip", NAN, NAN, NAN, "open", "no pairs"))
    assert marks(figure) == {}
    assert words(figure) == ["not measured, no pairs"]


def test_effect_rows_beyond_sixty_are_omitted_and_counted() -> None:
    figure = effects_figure(*(Effect(f"t{i}", 1, 0, 2, "open") for i in range(64)))
    assert len(rows(figure)) == 60
    assert legend(figure) == ["inconclusive", "4 more not shown"]


def test_empty_figures_show_message() -> None:
    assert words(effects_figure()) == ["no trick to compare"]
    assert words(spots_figure()) == ["nothing to compare"]
    assert words(spots_figure(ParetoPoint("a", NAN, 1, 0, 2, True))) == [
        "seconds per epoch: unknown for all variants"
    ]
    assert words(bands_figure()) == ["nothing to draw"]
    assert words(bands_figure(CurveBand("a", [1], [NAN], [NAN], [INF]))) == ["nothing to draw"]


def test_pareto_points_are_at_cost_and_value_joined_by_steps() -> None:
    figure = spots_figure(*reversed(SPOTS))
    efficient, others = scattered(figure)
    assert sorted(efficient) == [(1.0, 95.0), (2.0, 97.0)]
    assert others == [(1.1, 94.8)]
    axes = axes_of(figure)
    [edge] = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert np.asarray(edge.get_xydata()).tolist() == [[1.0, 95.0], [2.0, 97.0]]
    ends = [
        segment.tolist()
        for one in axes.collections
        if isinstance(one, LineCollection)
        for segment in one.get_segments()
    ]
    assert sorted(ends) == [
        [[1.0, 94.5], [1.0, 95.5]], [[1.1, 94.0], [1.1, 95.6]], [[2.0, 96.0], [2.0, 98.0]],
    ]  # fmt: skip
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert left < 1 and right > 2 and low < 94 and high > 98
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("seconds per epoch", "val/accuracy")
    assert legend(figure) == [
        "no other is better without costing more",
        "another is better, and not shown to cost more",
    ]  # fmt: skip


def crowd(number: int, efficient: int = 0) -> list[ParetoPoint]:
    stream = np.random.default_rng(0)
    places = stream.normal((1.5, 95), (0.3, 1), (number, 2)).tolist()
    return [
        ParetoPoint(f"variant={i}", cost, value, value - 0.5, value + 0.5, i < efficient)
        for i, (cost, value) in enumerate(places)
    ]


@pytest.mark.parametrize("number", [1, 2, 20])
def test_labels_of_up_to_twenty_points_do_not_overlap(number: int) -> None:
    spots = crowd(number)
    figure = spots_figure(*spots)
    renderer = drawn(figure)
    axes = axes_of(figure)
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert sorted(words(figure)) == sorted(spot.label for spot in spots)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    places = axes.transData.transform([(spot.cost, spot.value) for spot in spots])
    inside = axes.get_window_extent(renderer)
    for box in boxes:
        assert box.count_contains(places) == 0
        assert inside.padded(2).containsx(box.x0) and inside.padded(2).containsx(box.x1)
        assert inside.padded(2).containsy(box.y0) and inside.padded(2).containsy(box.y1)


def test_only_efficient_points_are_labelled_above_twenty_points() -> None:
    spots = crowd(2000, efficient=3)
    figure = spots_figure(*spots)
    assert sorted(words(figure)) == ["variant=0", "variant=1", "variant=2"]
    assert [len(some) for some in scattered(figure)] == [3, 1997]


def test_coinciding_points_are_all_drawn_and_labelled() -> None:
    figure = spots_figure(*(dataclasses.replace(SPOTS[0], label=f"v{i}") for i in range(3)))
    assert scattered(figure) == [[(1.0, 95.0)] * 3]
    assert sorted(words(figure)) == ["v0", "v1", "v2"]


def test_points_without_finite_values_are_omitted_and_counted() -> None:
    odd = [ParetoPoint("a", NAN, 95, 94, 96, False), ParetoPoint("b", 1.0, -INF, 94, 96, False)]
    figure = spots_figure(*SPOTS, *odd)
    assert axes_of(figure).get_title("right") == "2 variants without a number not shown"
    assert sum(map(len, scattered(figure))) == 3
    assert axes_of(spots_figure(*SPOTS)).get_title("right") == ""


def test_wide_cost_range_uses_logarithmic_axis() -> None:
    far = dataclasses.replace(SPOTS[2], cost=100.0)
    assert axes_of(spots_figure(SPOTS[0], far)).get_xscale() == "log"
    assert axes_of(spots_figure(*SPOTS)).get_xscale() == "linear"
    free = dataclasses.replace(SPOTS[0], cost=0.0)
    assert axes_of(spots_figure(free, far)).get_xscale() == "linear"


def test_curve_shows_mean_with_interval_band() -> None:
    figure = bands_figure(band("clip=norm", [90.0, 94.0, 95.0]))
    axes = axes_of(figure)
    [line] = axes.lines
    assert np.asarray(line.get_xydata()).tolist() == [[1, 90], [2, 94], [3, 95]]
    [area] = [one for one in axes.collections if isinstance(one, PolyCollection)]
    corners = {(float(x), float(y)) for x, y in np.asarray(area.get_paths()[0].vertices)}
    assert corners == {(1, 89.5), (1, 90.5), (2, 93.5), (2, 94.5), (3, 94.5), (3, 95.5)}
    low, high = axes.get_ylim()
    assert low < 89.5 and high > 95.5
    assert legend(figure) == ["clip=norm"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "val/accuracy")


def test_ten_curves_have_labels_and_the_rest_are_grey_and_counted() -> None:
    bands = [band(f"variant {i}", [i, i + 1.0]) for i in range(12)]
    figure = bands_figure(*bands)
    axes = axes_of(figure)
    assert legend(figure) == [*(f"variant {i}" for i in range(10)), "2 more"]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 10
    [rest] = [one for one in axes.collections if isinstance(one, LineCollection)]
    assert [segment.tolist() for segment in rest.get_segments()] == [
        [[1, 10], [2, 11]], [[1, 11], [2, 12]],
    ]  # fmt: skip
    assert legend(bands_figure(*bands[:10]))[-1] == "variant 9"


def test_epoch_axis_ticks_are_integers() -> None:
    for epochs in (1, 2, 3):
        axes = axes_of(bands_figure(band("a", [1.0] * epochs)))
        ticks = [float(tick) for tick in axes.get_xticks()]
        assert ticks == [round(tick) for tick in ticks]
        low, high = axes.get_xlim()
        assert any(low <= tick <= high for tick in ticks)


def test_curve_has_gaps_at_nonfinite_values() -> None:
    figure = bands_figure(CurveBand("a", [1, 2, 3], [1.0, INF, 3.0], [NAN, 1, 2], [NAN, INF, 4]))
    low, high = axes_of(figure).get_ylim()
    assert low < 1 and 4 < high < 5
    [line] = axes_of(figure).lines
    assert np.isnan(np.asarray(line.get_ydata())).tolist() == [False, True, False]
    drawn(figure)


@pytest.mark.parametrize("name", ["$a_b$", "_hidden", "a\x1b[2J\nb", "$\\frac{1}$", "中文 é", ""])
def test_labels_are_drawn_literally_in_every_figure(name: str) -> None:
    plain = name.replace("\x1b", "\\x1b").replace("\n", "\\n")
    figures = (
        (effects := effects_figure(Effect(name, 1, 0, 2, "open", name, name))),
        (spots := spots_figure(dataclasses.replace(SPOTS[0], label=name))),
        (bands := bands_figure(band(name, [1.0, 2.0]))),
    )
    shown = [*rows(effects).values(), *words(spots), *legend(bands)]
    assert len(shown) == (4 if name else 3)
    for text in shown:
        assert not is_math_text(text)
        assert text.replace("\\$", "$") == plain
    for figure in figures:
        drawn(figure)


def test_long_label_is_shortened_in_its_middle() -> None:
    name = "data.folder=" + "x" * 200 + " clip=norm"
    for text in (
        rows(effects_figure(Effect(name, 1, 0, 2, "open")))[0.0],
        words(spots_figure(dataclasses.replace(SPOTS[0], label=name)))[0],
        legend(bands_figure(band(name, [1.0])))[0],
    ):
        assert len(text) == 36
        assert text.startswith("data.folder=xx") and text.endswith("xx clip=norm")
        assert "…" in text


@pytest.mark.integration
@few
@given(values=st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=5), name=st.text())
def test_figures_accept_any_numbers_and_labels(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[tuple[float, float, float, float]],
    name: str,
) -> None:
    folder = tmp_path_factory.mktemp("pictures")
    effects = [Effect(name, b, c, d, "open", name, name) for _, b, c, d in values]
    spots = [ParetoPoint(name, a, b, c, d, a < b) for a, b, c, d in values]
    columns = list(zip(*values, strict=True)) or [()] * 4
    bands = [CurveBand(name, range(len(values)), *columns[1:])] * 12
    for file in (
        save_figure(plot_forest(effects, unit=name, title=name), folder / "forest.png"),
        save_figure(plot_pareto(spots, cost=name, value=name, title=name), folder / "pareto.png"),
        save_figure(plot_learning_curves(bands, label=name, title=name), folder / "curves.png"),
    ):
        with Image.open(file) as image:
            image.load()


def test_labels_of_variants_with_most_tricks_list_the_missing_tricks() -> None:
    tricks = {"clip": "norm", "freeze": "vgg_first2", "average": "ema"}
    factors = [Factor(group, [f"{group}=none", f"{group}={on}"]) for group, on in tricks.items()]
    levels: dict[Levels, str] = {
        ("clip=norm", "freeze=vgg_first2", "average=ema"): "all tricks",
        ("clip=norm", "freeze=none", "average=ema"): "all but freeze=vgg_first2",
        ("clip=norm", "freeze=none", "average=none"): "clip=norm",
    }
    made = {at: Variant(at, "clip=norm", {}) for at in levels}
    labels = {at: VariantSet(factors, made).format_label(variant) for at, variant in made.items()}
    assert labels == levels
    two = VariantSet(factors[:2], {})
    both = Variant(("clip=norm", "freeze=vgg_first2"), "clip=norm freeze=vgg_first2", {})
    assert two.format_label(both) == "clip=norm freeze=vgg_first2"
