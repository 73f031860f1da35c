"""Figures: what they show where, and that no text leaves them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color
from matplotlib.text import Text

from lastax.experiments import SweepCurves
from lastax.plots import (
    draw_layout,
    draw_learning,
    draw_poles,
    draw_sizes,
    draw_speeds,
    draw_states,
    draw_sweep,
)

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def documented():
    """The module `docs/figures.py`."""
    spec = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def times_of(shapes, repeats=4):
    """Seconds whose median ratios differ from the ratios of their medians."""
    rng = np.random.default_rng(0)
    names = ("reference", "lastax", "lastax, remat")
    return {
        shape: {name: (rng.random(repeats) ** 2).tolist() for name in names} for shape in shapes
    }


def sweep_of(*methods):
    points = {method: {0.5: [0.7, 0.8], 0.9: [0.3, 0.5]} for method in methods}
    return {"speech, s5": SweepCurves([0.88, 0.9], points, [], {}, {}, {})}


# Time constants in steps, and frequencies in cycles per step.
CONSTANTS, FREQUENCIES = np.array([2.0, 30.0, 4e5]), np.array([0.3, 0.002, 1e-4])
POLES = np.exp(-1 / CONSTANTS - 2j * np.pi * FREQUENCIES)
SCORES, KEEP = np.array([1e-5, 0.1, 1.0]), np.array([False, True, True])


def poles_figure(**changed):
    return draw_poles([POLES] * 3, [SCORES] * 3, [KEEP] * 3, title="run", **changed)


def lines_of(figure):
    """Lines by label."""
    return {line.get_label(): line for axis in figure.axes for line in axis.lines}


FIGURES = {
    "learning": lambda: draw_learning(
        {"run": [{"epoch": n, "validation_accuracy": 1.0, "train_accuracy": 0.9} for n in (1, 2)]}
    ),
    "sweep": lambda: draw_sweep(sweep_of("random", "last, BatchNorm recalibrated", "calibrated")),
    "one shape": lambda: draw_speeds(times_of(["short forward"]), "reference", title="title"),
    "speeds": lambda: draw_speeds(times_of("abcdef"), "reference", title="title"),
    "sizes": lambda: draw_sizes({"last, int8": {60.5: [0.8], 30.0: [0.7]}}, xlabel="flash, kB"),
    "poles": poles_figure,
    "states": lambda: draw_states([32, 1024], [30, 1024], title="run"),
    "layout": lambda: draw_layout([SCORES] * 2, [KEEP] * 2, title="scores: last"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_texts_are_inside_and_legends_cover_nothing(name):
    figure = FIGURES[name]()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    width, height = figure.bbox.size
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible():
            box = text.get_window_extent(renderer)
            inside = (box.x0 > 2, box.y0 > 2, box.x1 < width - 2, box.y1 < height - 2)
            ticks = any(
                text in axis.get_xticklabels() + axis.get_yticklabels() for axis in figure.axes
            )
            assert all(inside) or ticks, text
    for legend in figure.legends:
        box = legend.get_window_extent(renderer)
        assert not any(box.overlaps(axis.bbox) for axis in figure.axes)


@pytest.mark.parametrize("shapes", [["short forward"], ["a", "b", "c"]])
def test_bars_are_ratios_of_median_times(shapes):
    times = times_of(shapes)
    (axis,) = draw_speeds(times, "reference", title="title").axes
    expected = [
        np.median(group["reference"]) / np.median(group[name])
        for group in times.values()
        for name in ("lastax", "lastax, remat")
    ]
    bars = [bar.get_width() for bar in axis.patches]
    np.testing.assert_allclose(bars, expected)
    assert [text.get_text().strip() for text in axis.texts] == [f"{bar:.1f}" for bar in expected]


def test_sweeps_begin_at_the_unpruned_networks():
    figure = draw_sweep(sweep_of("last"))
    line = lines_of(figure)["last"]
    np.testing.assert_allclose(line.get_xdata(), [0, 50, 90])
    np.testing.assert_allclose(line.get_ydata(), [89, 75, 40])
    assert figure.axes[0].get_xlim()[0] == 0


def test_sizes_are_in_order_and_seeds_are_averaged():
    figure = draw_sizes({"last, int8": {60.5: [0.8, 0.9], 30.0: [0.7]}}, xlabel="flash, kB")
    (line,) = lines_of(figure).values()
    assert line.get_xdata().tolist() == [30, 60.5]
    np.testing.assert_allclose(line.get_ydata(), [70, 85])


def test_a_method_has_one_color_in_all_figures():
    sizes = lines_of(draw_sizes({"last, int8": {1.0: [0.8]}}, xlabel="kB"))["last, int8"]
    few = lines_of(draw_sweep(sweep_of("calibrated", "last")))
    many = lines_of(draw_sweep(sweep_of("last", "mine", "random", "last + 3 epochs", "calibrated")))
    for name in ("last", "calibrated"):
        assert few[name].get_color() == many[name].get_color()
        assert few[name].get_marker() == many[name].get_marker()
    assert many["last + 3 epochs"].get_color() == many["last"].get_color()
    assert many["last + 3 epochs"].get_linestyle() != many["last"].get_linestyle()
    assert sizes.get_color() == few["last"].get_color()
    assert sizes.get_linestyle() != few["last"].get_linestyle()
    names = ("last", "mine", "random", "calibrated")
    assert len({many[name].get_color() for name in names}) == 4


def test_eigenvalues_are_drawn_by_frequency_and_time_constant():
    figure = poles_figure(columns=2)
    # Two rows of layers, each with two rows of panels, and the color bar.
    log = [
        axis for axis in figure.axes if axis.get_yscale() == "log" and axis.get_xscale() == "log"
    ]
    assert len(log) == 3
    for axis in log:
        assert axis.get_xlabel() == "frequency, cycles per step"
        remaining, removed = (points.get_offsets() for points in axis.collections)
        np.testing.assert_allclose(removed, [[0.3, 2.0]], rtol=1e-6)
        np.testing.assert_allclose(remaining, [[0.002, 30], [1e-4, 4e5]], rtol=1e-6)
    assert "one eigenvalue of each conjugate pair" in figure.get_suptitle()
    assert "crosses: removed states" in figure.get_suptitle()
    assert "conjugate pair" not in poles_figure(conj_sym=False).get_suptitle()


def test_eigenvalues_without_a_frequency_or_a_time_constant_are_on_the_edge():
    lam = np.array([0.9, 0.0, 1.01, 0.5j, -0.5])
    score = np.array([0.1, 0.2, np.inf, 0.4, 0.5])
    figure = draw_poles([lam.astype(complex)], [score], [np.ones(5, bool)], title="run")
    assert "crosses" not in figure.get_suptitle()
    log = figure.axes[1]
    points, _ = log.collections
    (low, high), (bottom, top) = log.get_xlim(), log.get_ylim()
    x, y = points.get_offsets().T
    order = np.argsort(score)
    assert np.all((x >= low) & (x <= high) & (y >= bottom) & (y <= top))
    assert y[list(order).index(2)] == top
    assert same_color(points.get_facecolors()[-1], "black")


def test_figures_of_the_documentation_agree_with_its_tables(documented):
    study = documented.study_curves()
    assert len(study) == 7
    assert study["speech, s5, bidirectional"].test["last"][0.7] == [0.624]
    assert study["speech, lru, bidirectional"].test["aire"][0.7] == [0.858]
    assert study["text, s5, bidirectional"].unpruned == [0.682]
    (sweep,) = documented.sweep_curves().values()
    assert sweep.test["calibrated, reconstructed"][0.9] == [0.831]
    sizes = documented.device_curves()
    assert set(sizes) == {"last", "calibrated", "last, int8", "calibrated, int8"}
    assert all(len(points) == 5 for points in sizes.values())
    times = documented.step_times()
    assert len(times) == 10
    (_, (header, *rows)), *_ = (
        t for t in documented.tables("performance.md") if t[0] == "Networks"
    )
    shown = draw_speeds(times, "reference", title="title").axes[0].texts
    assert [text.get_text().strip() for text in shown] == [
        row[header.index("speedup")] for row in rows
    ]
