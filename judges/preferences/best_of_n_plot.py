"""The best of n as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from judges.errors import CannotRun
from judges.evaluation.report.plots import COLOURS, SETTINGS
from judges.preferences.best_of_n import Curve, Expected


def write_plot(curve: Curve, scorer: str, measure: str | None, path: Path) -> None:
    """Write the curve as PNG: what the best of n is worth to the scorer that picks and, below, to the one that
    measures. Raises CannotRun where matplotlib is not installed."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CannotRun("plots need matplotlib: pip install 'assay[report]'") from error
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(layout="constrained", figsize=(6.4, 3.9 if measure is None else 6.2))
        FigureCanvasAgg(figure)
        panels = figure.subplots(1 if measure is None else 2, sharex=True, squeeze=False)[:, 0]
        _draw(panels[0], [point.picked for point in curve.points], f"{scorer} (picks)", 0)
        if measure is not None:
            told = [point.measured for point in curve.points if point.measured is not None]
            _draw(panels[1], told, f"{measure} (measures)", 1)
        _name_axes(panels[0], panels[-1], curve)
        figure.suptitle(
            f"Best of n by {scorer}: mean over {curve.prompts:,} prompts, 95 % interval", x=0.02, ha="left", fontsize=10
        )
        part = path.with_name(path.name + ".part")
        figure.savefig(part, dpi=150, format="png")
        part.replace(path)


def _draw(axes: Any, values: Sequence[Expected], name: str, place: int) -> None:
    sizes = range(1, len(values) + 1)
    colour = COLOURS[place]
    band = [(n, one.low, one.high) for n, one in zip(sizes, values, strict=True) if one.low is not None]
    if band:
        axes.fill_between(*zip(*band, strict=True), color=colour, alpha=0.18, linewidth=0)
    axes.plot(sizes, [one.value for one in values], "o-", color=colour, markersize=3 if len(values) > 20 else 4.5)
    axes.set_ylabel(f"expected score,\n{name}")
    axes.grid(color="#eeeeee")


def _name_axes(upper: Any, lower: Any, curve: Curve) -> None:
    shown = ticks(curve.candidates)
    lower.set_xscale("log", base=2)
    lower.set_xlabel("n, candidates of which the best is taken (log scale)")
    lower.set_xticks(shown, [str(n) for n in shown])
    lower.minorticks_off()
    top = upper.secondary_xaxis("top")
    top.set_xticks(shown, [f"{curve.points[n - 1].kl:.2f}" for n in shown])
    top.minorticks_off()
    top.spines["top"].set_visible(True)
    top.set_xlabel("KL from the policy, at most: log n − (n−1)/n, in nats")


def ticks(count: int) -> list[int]:
    """1, 2, 4, … as far as they go, and the last; one that would stand in its way is left out.

    >>> ticks(4), ticks(12), ticks(9)
    ([1, 2, 4], [1, 2, 4, 8, 12], [1, 2, 4, 9])
    """
    powers = [2**k for k in range(count.bit_length()) if 2**k == count or 2**k < count / 1.25]
    return powers if powers[-1] == count else [*powers, count]
