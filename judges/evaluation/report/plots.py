"""Plots of a run as PNG and SVG: forest plot, heat map, reliability diagram, cost."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from judges.errors import CannotRun
from judges.evaluation.report.data import is_share
from judges.evaluation.results import BenchmarkInfo, MetricValue, Result, Run

# Okabe and Ito's colours, darkened for lines on white, each with a marker of its own.
COLOURS = ("#0072b2", "#b35900", "#007a5a", "#9b3d7a", "#8a6d00", "#444444", "#2c8ab8", "#c03a2b")
MARKERS = "os^DvPX*"
MAX_NAME_LENGTH = 36
RC_PARAMS = {
    "svg.hashsalt": "assay",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
}


def write_plots(run: Run, folder: Path) -> list[Path]:
    """Write each plot that the run has numbers for, as PNG and as SVG, and return their paths.

    Raises CannotRun where matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CannotRun("plots need matplotlib: pip install 'assay[report]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    labels = list(dict.fromkeys(r.label for r in run.results))
    written = []
    with matplotlib.rc_context(RC_PARAMS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a font without some script still draws the rest
        for index, benchmark in enumerate(run.benchmarks, 1):
            results = [r for r in run.results if r.benchmark == benchmark.name and r.main.value is not None]
            for name, draw in PLOTS.items():
                figure = Figure(layout="constrained")
                FigureCanvasAgg(figure)
                if not results or not draw(figure, benchmark, results, labels):
                    continue
                for kind in ("png", "svg"):
                    path = folder / f"{name}-{index}-{file_stem(benchmark.name)}.{kind}"
                    metadata = {"Date": None} if kind == "svg" else None
                    figure.savefig(path, dpi=150, metadata=metadata)
                    written.append(path)
    return written


def file_stem(name: str) -> str:
    """A benchmark's name as part of a file name: ASCII letters, digits and hyphens."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in Path(name).stem)[:40].strip("-") or "benchmark"


def _forest(figure: Any, benchmark: BenchmarkInfo, results: Sequence[Result], labels: Sequence[str]) -> bool:
    ordered = sorted(results, key=lambda r: _value(r.main))
    figure.set_size_inches(7, 1.3 + 0.32 * len(ordered))
    axes = figure.subplots()
    for y, r in enumerate(ordered):
        n, scale = r.main, _scale(r.main)
        colour, marker = _style(labels.index(r.label))
        if n.worst is not None and n.best is not None:
            axes.plot([n.worst * scale, n.best * scale], [y, y], color="#dddddd", linewidth=8, solid_capstyle="butt")
        if n.low is not None and n.high is not None:
            axes.plot([n.low * scale, n.high * scale], [y, y], color=colour, linewidth=2)
        axes.plot(_value(n) * scale, y, marker, color=colour)
    axes.set_yticks(range(len(ordered)), [_name(r) for r in ordered])
    axes.grid(axis="x", color="#eeeeee")
    axes.set_xlabel(f"{benchmark.headline}{_unit(ordered[0].main)}, 95 % interval")
    axes.set_title(benchmark.title, loc="left")
    return True


def _heat_map(figure: Any, benchmark: BenchmarkInfo, results: Sequence[Result], labels: Sequence[str]) -> bool:
    metric = results[0].headline[0]
    sections = list(dict.fromkeys(n.section for r in results for n in r.numbers if n.metric == metric and n.section))
    if not sections:
        return False
    numbers = [[r.number(metric, s) for r in results] for s in sections]
    values = [[float("nan") if n is None or n.value is None else n.value * _scale(n) for n in row] for row in numbers]
    figure.set_size_inches(3 + 1.1 * len(results), 1.6 + 0.3 * len(sections))
    axes = figure.subplots()
    image = axes.imshow(values, aspect="auto", cmap="Blues", alpha=0.65)
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            digits = 1 if is_share(metric) else 2
            axes.text(x, y, "–" if value != value else f"{value:.{digits}f}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(results)), [_name(r) for r in results], rotation=25, ha="right")
    axes.set_yticks(range(len(sections)), [_short(section) for section in sections])
    axes.tick_params(length=0)
    axes.set_title(f"{benchmark.title}: {metric} by part", loc="left")
    figure.colorbar(image, ax=axes, shrink=0.8)
    return True


def _reliability(figure: Any, benchmark: BenchmarkInfo, results: Sequence[Result], labels: Sequence[str]) -> bool:
    drawn = [r for r in results if any(r.curves.values())]
    if not drawn:
        return False
    columns = min(4, len(drawn))
    rows = -(-len(drawn) // columns)
    figure.set_size_inches(2.6 * columns + 0.4, 2.8 * rows)
    for r, axes in zip(drawn, figure.subplots(rows, columns, squeeze=False).flat, strict=False):
        axes.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=1)
        curves = [(name, bins) for name, bins in r.curves.items() if bins]
        for name, bins in curves:
            is_last = name == curves[-1][0]
            x, y = [b.confidence for b in bins], [b.accuracy for b in bins]
            axes.plot(x, y, "o-" if is_last else "o:", color=_style(labels.index(r.label))[0], label=name, markersize=4,
                      markerfacecolor=None if is_last else "white")  # fmt: skip
        axes.set(xlim=(0.45, 1.02), ylim=(min(0.45, *(b.accuracy for _, bins in curves for b in bins)), 1.02))
        axes.set_title(_name(r), fontsize=9)
        axes.legend(frameon=False, fontsize=7)
    for axes in figure.axes[len(drawn) :]:
        axes.set_axis_off()
    figure.supxlabel("confidence")
    figure.supylabel("accuracy")
    figure.suptitle(benchmark.title)
    return True


def _cost(figure: Any, benchmark: BenchmarkInfo, results: Sequence[Result], labels: Sequence[str]) -> bool:
    measured = [r for r in results if not r.published]
    if len(measured) < 2:
        return False
    figure.set_size_inches(9, 3.6)
    costs: tuple[tuple[str, Callable[[Result], float]], ...] = (
        ("tokens, prompt and generated", lambda r: float(r.usage.prompt_tokens + r.usage.generated_tokens)),
        ("seconds", lambda r: r.seconds),
    )
    for axes, (name, cost) in zip(figure.subplots(1, 2, sharey=True), costs, strict=True):
        paid = [cost(r) for r in measured if cost(r) > 0]
        # A scorer without cost is drawn at 0, which a log axis does not have.
        free = len(paid) < len(measured)
        axes.set_xscale("symlog" if free else "log", **({"linthresh": min(paid, default=1.0)} if free else {}))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 or value == 0 else f"{value:g}")
        best, front = float("-inf"), []
        for r in sorted(measured, key=lambda r: (cost(r), -_value(r.main))):
            if _value(r.main) > best:
                best = _value(r.main)
                front.append((cost(r), best * _scale(r.main)))
        axes.step(*zip(*front, strict=True), where="post", color="#888888", linestyle="--", linewidth=1)
        for r in measured:
            colour, marker = _style(labels.index(r.label))
            n, scale = r.main, _scale(r.main)
            if n.low is not None and n.high is not None:
                axes.plot([cost(r)] * 2, [n.low * scale, n.high * scale], color=colour, linewidth=1.5)
            axes.plot(cost(r), _value(n) * scale, marker, color=colour)
            right_half = cost(r) > 0 and bool(paid) and cost(r) >= statistics.median(paid)
            position = {"xytext": (-6 if right_half else 6, 4), "ha": "right" if right_half else "left"}
            axes.annotate(
                _short(r.label), (cost(r), _value(n) * scale), textcoords="offset points", fontsize=8, **position
            )
        axes.set_xlabel(name)
        axes.grid(color="#eeeeee")
    figure.axes[0].set_ylabel(f"{benchmark.headline}{_unit(measured[0].main)}")
    figure.suptitle(benchmark.title)
    return True


PLOTS = {"forest": _forest, "heat-map": _heat_map, "reliability": _reliability, "cost": _cost}


def _value(number: MetricValue) -> float:
    assert number.value is not None, "results without a headline are not plotted"
    return number.value


def _scale(number: MetricValue) -> float:
    return 100.0 if is_share(number.metric) else 1.0


def _unit(number: MetricValue) -> str:
    return ", %" if is_share(number.metric) else ""


def _name(result: Result) -> str:
    return f"{_short(result.label)} (made elsewhere)" if result.published else _short(result.label)


def _short(text: str) -> str:
    """A name on one line, cut to MAX_NAME_LENGTH characters."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_NAME_LENGTH else line[: MAX_NAME_LENGTH - 1] + "…"


def _style(index: int) -> tuple[str, str]:
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
