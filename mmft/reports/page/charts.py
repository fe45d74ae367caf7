"""Charts as inline SVG, drawn by Matplotlib. Ink is the page's own colour, so that dark pages have light ink."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmft.data.spread import spread_evenly
from mmft.reports.numbers import number_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#3b82f6", "#e07b2a", "#2f9e5b", "#cf4d4d", "#9467bd", "#96705f", "#d667a8", "#8a8a8a", "#1aa3a3")
"""Of lines and points; readable on white and on black."""
_INK = "#010203"  # becomes `currentColor`
_LONGEST = 26  # characters of a label
_MOST_POINTS = 250  # of a line; more are not seen
_MOST_TICKS = 6  # that have room beside each other
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
    "legend.frameon": False,
    "legend.fontsize": 8,
    "axes.titlesize": 9,
    "text.parse_math": False,
}
Floats = npt.NDArray[np.float64]
Line = tuple[Sequence[float] | Floats, Sequence[float] | Floats]
"""Numbers along both axes."""


def chart(name: str, title: str, draw: Callable[[Axes], None], size: tuple[float, float] = (4.6, 3.0)) -> str:
    """A figure of one chart.

    Args:
        name: unique on the page, in the ids of the figure's parts.
        title: above it, and its description for screen readers.
        draw: draws on the axes.
        size: width and height in inches at 10 points to a line.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        drawn = Figure(figsize=size, layout="constrained")
        draw(drawn.add_subplot(title=title))
        stream = io.StringIO()
        FigureCanvasSVG(drawn).print_svg(stream, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    width = round(6.5 * size[0])
    return f'<figure style="max-width: {width}rem">{_inline(stream.getvalue(), name, title)}</figure>\n'


def _inline(svg: str, name: str, title: str) -> str:
    """The SVG without what a file of its own needs, its ids made unique by `name`, its ink the page's."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"| version="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"fill: #ffffff|fill: white", "fill: none", svg)  # the grounds of figure and axes
    label = f'<svg role="img" aria-label="{escape(title)}" '
    return label + svg.replace(_INK, "currentColor").replace("'DejaVu Sans', ", "").removeprefix("<svg ")


def lines(
    name: str,
    title: str,
    series: Mapping[str, Line],
    x: str,
    y: str = "",
    unit: bool = False,
    marked: tuple[float, str] | None = None,
) -> str:
    """A chart of lines.

    Args:
        name: as for `chart`.
        title: likewise.
        series: lines by name.
        x: what is along the horizontal axis.
        y: what is along the vertical one.
        unit: both axes go from 0 to 1, and the lines are steps of a curve over rows.
        marked: a place on the horizontal axis, and what it is.
    """

    def draw(axes: Axes) -> None:
        for colour, (label, (across, up)) in zip(_colours(len(series)), series.items(), strict=True):
            chosen = spread_evenly(len(across), _MOST_POINTS)
            marker = "o" if len(across) < 30 else ""
            x_values, y_values = np.asarray(across)[chosen], np.asarray(up)[chosen]
            axes.plot(x_values, y_values, color=colour, label=_short(label), lw=1.3, marker=marker, markersize=3)
        if marked is not None:
            axes.axvline(marked[0], color=_INK, lw=0.7, linestyle="dotted", label=marked[1])
        if unit:
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.set(xlabel=x, ylabel=y)
        if len(series) > 1 or marked is not None:
            axes.legend()

    return chart(name, title, draw)


def _colours(count: int) -> list[str]:
    return [COLOURS[at % len(COLOURS)] for at in range(count)]


def points(name: str, title: str, across: Floats, up: Floats, x: str, y: str, line: str | None = None) -> str:
    """A chart of points; `line` draws `diagonal` (equal values) or `zero`."""

    def draw(axes: Axes) -> None:
        axes.plot(across, up, "o", color=COLOURS[0], markersize=3, alpha=0.5, markeredgewidth=0)
        if line == "diagonal":
            ends = [float(min(across.min(), up.min())), float(max(across.max(), up.max()))]
            axes.plot(ends, ends, color=_INK, lw=0.7, linestyle="dotted")
        elif line == "zero":
            axes.axhline(0, color=_INK, lw=0.7, linestyle="dotted")
        axes.set(xlabel=x, ylabel=y)

    return chart(name, title, draw)


def scattered(name: str, title: str, found: Sequence[tuple[str, float]], y: str) -> str:
    """A chart of values by setting: a point for each, and a line through the means of equal settings.

    Numbers stand on an axis, a logarithmic one if they span a factor of 30; words stand side by side.
    """
    numbers = [number_in(setting) for setting, _ in found]
    words = list(dict.fromkeys(setting for setting, _ in found))
    scale = [number for number in numbers if number is not None]
    is_scale = len(scale) == len(found)
    across = scale if is_scale else [float(words.index(setting)) for setting, _ in found]
    places = sorted(set(across))
    means = [float(np.mean([up for at, (_, up) in zip(across, found, strict=True) if at == place])) for place in places]

    def draw(axes: Axes) -> None:
        axes.plot(across, [up for _, up in found], "o", color=COLOURS[0], markersize=4, alpha=0.7)
        axes.plot(places, means, color=COLOURS[1], lw=1)
        if not is_scale:
            axes.set_xticks(range(len(words)), [_short(word) for word in words], rotation=30 if len(words) > 3 else 0)
        else:
            if places[0] > 0 and places[-1] / places[0] > 30:
                axes.set_xscale("log")
                axes.set_xticks([], minor=True)
            ticks = [places[at] for at in spread_evenly(len(places), _MOST_TICKS)]
            axes.set_xticks(ticks, [f"{place:g}" for place in ticks])
        axes.set(xlabel=title, ylabel=y)

    return chart(name, title, draw)


def bars(name: str, title: str, places: Floats, heights: Floats, width: float, x: str, y: str, target: bool) -> str:
    """A chart of bars around `places`; with `target`, a dotted diagonal of what would be right, from 0 to 1."""

    def draw(axes: Axes) -> None:
        axes.bar(places, heights, width * 0.92, color=COLOURS[0], alpha=0.85)
        if target:
            axes.plot([0, 1], [0, 1], color=_INK, lw=0.7, linestyle="dotted")
            axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.set(xlabel=x, ylabel=y)

    return chart(name, title, draw)


def heat_map(name: str, title: str, counts: Floats, rows: Sequence[str], columns: Sequence[str]) -> str:
    """Counts as a table of coloured cells; a cell's colour is its share of the row's total."""

    def draw(axes: Axes) -> None:
        from matplotlib.colors import ListedColormap

        clear = ListedColormap([(0.23, 0.51, 0.96, share) for share in np.linspace(0, 0.9, 64)])
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.pcolormesh(shares, cmap=clear, vmin=0, vmax=1, edgecolors="none")
        axes.set(xlabel="predicted", ylabel="true", ylim=(len(rows), 0))
        axes.set_xticks(np.arange(len(columns)) + 0.5, [_short(label) for label in columns], rotation=90)
        axes.set_yticks(np.arange(len(rows)) + 0.5, [_short(label) for label in rows])
        axes.tick_params(length=0)
        if len(columns) <= 26:
            for (row, column), count in np.ndenumerate(counts):
                if count:
                    axes.text(column + 0.5, row + 0.5, f"{int(count)}", ha="center", va="center", fontsize=7)

    side = min(2.0 + 0.3 * len(columns), 9.5)
    return chart(name, title, draw, (max(side, 4.6), max(side * 0.85, 3.2)))


def _short(label: str) -> str:
    """A label, on one line."""
    line = " ".join(label.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
