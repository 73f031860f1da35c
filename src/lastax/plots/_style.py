"""What the figures share: margins, and one color, marker and line style per method."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend

from lastax.pruning._methods import METHODS

# A name, or an offset with lengths of dashes and gaps in points.
LineStyle = str | tuple[int, tuple[int, ...]]

# In the order of `METHODS`; further methods get the rest.
_COLORS = (
    *("#7f7f7f", "#ffbb78", "#ff7f0e", "#bcbd22", "#98df8a", "#8c564b", "#2ca02c", "#d62728"),
    *("#17becf", "#9edae5", "#9467bd", "#aec7e8", "#c49c94", "#1f77b4", "#f7a6c8", "#e377c2"),
    *("#393b79", "#637939", "#843c39", "#7b4173"),
)
_MARKERS = "osD^vP*Xh<>pd8H"
# By the last word of a label: what followed pruning, or how weights are stored.
_LINE_STYLES: Mapping[str, LineStyle] = {
    "recalibrated": "--",
    "int8": "--",
    "reconstructed": ":",
    "epochs": "-.",
    "distilled": (0, (5, 1)),
}


class MethodStyle(NamedTuple):
    """How a row of a sweep is drawn; color and marker belong to the method."""

    color: str
    marker: str
    linestyle: LineStyle


def method_styles(labels: list[str]) -> dict[str, MethodStyle]:
    """The style of each label of a sweep, such as `last` or `last, reconstructed`.

    A method has the same color in all figures, and the same marker unless its label names settings,
    such as `calibrated (sequences 64)`. These labels have further markers, in their order. Methods
    that are not registered follow in the order of their labels.
    """
    names = [_without_post_processing(label) for label in labels]
    methods = [name.partition(" (")[0] for name in names]
    variants: dict[str, dict[str, int]] = {}
    for name, method in zip(names, methods, strict=True):
        of_method = variants.setdefault(method, {method: 0})
        of_method.setdefault(name, len(of_method))
    places = {name: place for place, name in enumerate(dict.fromkeys([*METHODS, *methods]))}
    return {
        label: MethodStyle(
            _COLORS[places[method] % len(_COLORS)],
            _MARKERS[(places[method] + variants[method][name]) % len(_MARKERS)],
            _LINE_STYLES.get(label.split()[-1], "-"),
        )
        for label, name, method in zip(labels, names, methods, strict=True)
    }


def _without_post_processing(label: str) -> str:
    """The method and its settings: `last (sequences 64)` of `last (sequences 64) + 3 epochs`."""
    found = re.match(r".+?(?: \(.*?\))?(?=,| \+ |$)", label)
    return label if found is None else found[0]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, whose labels keep a distance from its edges."""
    engine = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08, wspace=0.03, hspace=0.03)
    return Figure(figsize=(width, height), layout=engine)


def simplify(axis: Axes) -> None:
    """Draw a grid, and no lines at the top and on the right."""
    axis.grid(color="0.5", alpha=0.2)
    axis.spines[["top", "right"]].set_visible(False)


def show_plain_text(legend: Legend) -> None:
    """Show labels as they are: a dollar sign in a name does not begin a formula."""
    for text in legend.get_texts():
        text.set_parse_math(False)
