"""The picture of a front: trials, the front, the best, baselines and constraints. The only user of matplotlib; imported late.

One panel for each objective beside the first, the first upright; of a single objective, its course over the trials.
"""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.report.found_sweeps import FoundSweep
from orchestrator.report.sweep_table import values_text
from orchestrator.report.text import format_figure
from orchestrator.report.trade_offs import Point, TradeOffs
from orchestrator.workflow.trials import trial_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "html")
MAX_PANELS = 4
MAX_NAMED = 12

_FRONT, _BEST, _BASELINE, _LIMIT, _OTHER, _OFF = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B0B0B0", "#E69F00"
"""Of Okabe and Ito's palette, which is told apart without red or green; every kind has a mark of its own besides."""

_LIMIT_TEXT = "#8A3D69"  # the same hue, dark enough to be read

_QUANTITIES: Mapping[str, tuple[str, float]] = {
    "top1_accuracy": ("top-1 accuracy (%)", 100.0),
    "psnr_db": ("PSNR (dB)", 1.0),
    "ssim": ("SSIM", 1.0),
    "frechet_distance": ("Fréchet distance", 1.0),
    "noise_mse": ("squared error of the predicted noise", 1.0),
    "seconds_per_image": ("time per image (ms)", 1000.0),
    "num_nonzero_parameters": ("non-zero parameters", 1.0),
    "num_parameters": ("parameters", 1.0),
    "gmacs": ("multiply-accumulates (10⁹ per image)", 1.0),
    "gmacs_effective": ("effective multiply-accumulates (10⁹ per image)", 1.0),
    "bops": ("bit operations per image", 1.0),
    "size_bytes": ("stored size (KiB)", 1 / 1024),
    "gzip_size_bytes": ("size after gzip (KiB)", 1 / 1024),
    "size_ratio": ("stored size over the baseline's", 1.0),
    "sparsity": ("sparsity (%)", 100.0),
    "peak_memory_bytes": ("peak memory (MiB)", 1 / 2**20),
    "final_loss": ("final training loss", 1.0),
}


@dataclass(frozen=True, kw_only=True)
class Axis:
    """How a metric is drawn: its words with the unit, and what its values are multiplied by."""

    metric: str
    node: str
    text: str
    factor: float


def axis_of(metric: str) -> Axis:
    """The axis of "node.metric".

    Example:
        >>> axis_of("tune.top1_accuracy").text, axis_of("score.latency_ms_b64").text, axis_of("score.value").text
        ('top-1 accuracy (%)', 'latency (ms, batch of 64)', 'value')
    """
    node, _, name = metric.partition(".")
    text, factor = _QUANTITIES.get(name, (name.replace("_", " "), 1.0))
    for prefix, what in (
        ("latency_ms_b", "latency (ms, batch of {})"),
        ("latency_ratio_b", "speed over the baseline's, batch of {}"),
    ):
        if name.startswith(prefix):
            text = what.format(name.removeprefix(prefix))
    if name.startswith("images_per_s_b"):
        text = f"images per second, batch of {name.rpartition('_b')[2]}"
    return Axis(metric=metric, node=node, text=text, factor=factor)


def draw(found: TradeOffs, *, form: str) -> bytes:
    """The picture as a file of the format png, svg or html."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "orchestrator", "font.size": 10}):  # the same front gives the same bytes
        figure = _figure(found)
        file = io.BytesIO()
        if form == "png":
            figure.savefig(file, format="png", dpi=150)
            return file.getvalue()
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    return svg if form == "svg" else _page(found, svg.decode()).encode()


def _figure(found: TradeOffs) -> Figure:
    from matplotlib.figure import Figure

    first, *others = map(axis_of, found.objectives)
    panels = others[:MAX_PANELS]
    number = max(1, len(panels))
    figure = Figure(figsize=(7.2 if number == 1 else 5.4 * number, 5.2), layout="constrained")
    all_axes = [figure.add_subplot(1, number, place + 1) for place in range(number)]
    for place, axes in enumerate(all_axes):
        if panels:
            _draw_panel(axes, found, across=panels[place], upright=first)
        else:
            _draw_course(axes, found, first)
        axes.grid(visible=True, color="#E6E6E6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles = {label: handle for axes in all_axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(3, len(handles)), frameon=False)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    figure.suptitle(_title(found), fontsize=11)
    return figure


def _draw_panel(axes: Axes, found: TradeOffs, *, across: Axis, upright: Axis) -> None:
    names = list(found.objectives)
    left, top = names.index(across.metric), names.index(upright.metric)

    def place(point: Point) -> tuple[float, float]:
        return point.values[left] * across.factor, point.values[top] * upright.factor

    members = {id(point) for point in found.members}
    _scatter(axes, [place(point) for point in found.points if not point.is_good], "beyond a constraint", "x", _OFF, 36)
    dominated = [place(point) for point in found.points if point.is_good and id(point) not in members]
    _scatter(axes, dominated, "dominated", "o", _OTHER, 28)
    front = sorted(place(point) for point in found.members)
    if len(front) > 1 and len(found.objectives) == 2:
        is_less = found.objectives[across.metric] == "minimize"
        axes.step(*zip(*front, strict=True), where="post" if is_less else "pre", color=_FRONT, linewidth=1.4, zorder=2)
    _scatter(axes, front, "not dominated", "o", _FRONT, 44, zorder=3)
    best = [point for point in found.points if point.is_best]
    _scatter(axes, [place(point) for point in best], "best by its sweep's rule", "*", _BEST, 210, zorder=4)
    bases = _baselines(found, across, upright)
    _scatter(axes, bases, "baseline", "D", _BASELINE, 52, zorder=3)
    _draw_limits(axes, found, across, is_upright=False)
    _draw_limits(axes, found, upright, is_upright=True)
    _name_points(axes, [(trial_name(point.trial.number), place(point)) for point in found.members])
    axes.set_xlabel(_words(found, across))
    axes.set_ylabel(_words(found, upright))
    _plain_ticks(axes)


def _draw_course(axes: Axes, found: TradeOffs, axis: Axis) -> None:
    """One objective has no trade-off: every trial in its order, and the best so far."""
    is_more = found.objectives[axis.metric] == "maximize"
    numbers = [point.trial.number if len(found.sweeps) == 1 else place for place, point in enumerate(found.points)]
    places = [(number, point.values[0] * axis.factor, point) for number, point in zip(numbers, found.points, strict=True)]
    good = [(float(number), value) for number, value, point in places if point.is_good]
    off = [(float(number), value) for number, value, point in places if not point.is_good]
    _scatter(axes, off, "beyond a constraint", "x", _OFF, 36)
    _scatter(axes, good, "trial", "o", _OTHER, 32)
    reached: list[tuple[float, float]] = []
    for place, value in good:
        last = reached[-1][1] if reached else value
        reached.append((place, max(last, value) if is_more else min(last, value)))
    if reached:
        axes.step(*zip(*reached, strict=True), where="post", color=_FRONT, linewidth=1.6, label="best so far")
    best = [(float(number), value) for number, value, point in places if point.is_best]
    _scatter(axes, best, "best by its sweep's rule", "*", _BEST, 210, zorder=4)
    _draw_limits(axes, found, axis, is_upright=True)
    axes.set_xlabel("trial, in the order of proposal")
    axes.set_ylabel(_words(found, axis))
    _plain_ticks(axes, is_whole=True)


def _scatter(
    axes: Axes, places: Sequence[tuple[float, float]], label: str, marker: str, colour: str, size: float, *, zorder: float = 2
) -> None:
    if places:
        edge, line = (None, 1.6) if marker == "x" else ("white", 0.8)
        across, upright = zip(*places, strict=True)
        axes.scatter(
            across, upright, s=size, marker=marker, c=colour, label=label, zorder=zorder, edgecolors=edge, linewidths=line
        )


def _draw_limits(axes: Axes, found: TradeOffs, axis: Axis, *, is_upright: bool) -> None:
    """A line for each bound of a constraint on this metric, with what it asks for."""
    limits = dict.fromkeys(limit for sweep in found.sweeps for limit in limits_of(sweep, axis.metric))
    for limit in limits:
        place = limit.value * axis.factor
        line = axes.axhline if is_upright else axes.axvline
        line(place, color=_LIMIT, linestyle=(0, (5, 3)), linewidth=1.4, label="constraint", zorder=1)
        text = f"at {'least' if limit.is_lowest else 'most'} {_tick(place)}"
        if is_upright:
            axes.annotate(
                text, (1, place), xycoords=("axes fraction", "data"), xytext=(-3, 3), textcoords="offset points",
                ha="right", va="bottom", fontsize=8, color=_LIMIT_TEXT,
            )  # fmt: skip
        else:
            axes.annotate(
                text, (place, 1), xycoords=("data", "axes fraction"), xytext=(-3, -3), textcoords="offset points",
                ha="right", va="top", rotation=90, fontsize=8, color=_LIMIT_TEXT,
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One bound of a constraint, in the metric's own unit."""

    value: float
    is_lowest: bool


def limits_of(found: FoundSweep, metric: str) -> list[Limit]:
    """The bounds that a sweep's constraints set to one metric."""
    limits = []
    is_minimized = found.objectives.get(metric) == "minimize"
    for constraint in found.settings.constraints if found.settings is not None else ():
        if constraint.metric != metric:
            continue
        limits += [Limit(value=constraint.min, is_lowest=True)] if constraint.min is not None else []
        limits += [Limit(value=constraint.max, is_lowest=False)] if constraint.max is not None else []
        base = found.baselines.get(constraint.versus)
        if isinstance(base, (int, float)):
            if constraint.max_drop is not None:
                drop = constraint.max_drop if is_minimized else -constraint.max_drop
                limits.append(Limit(value=base + drop, is_lowest=not is_minimized))
            if constraint.max_ratio is not None:
                limits.append(Limit(value=base * constraint.max_ratio, is_lowest=False))
    return limits


def _baselines(found: TradeOffs, across: Axis, upright: Axis) -> list[tuple[float, float]]:
    """Nodes outside of the sweeps that report the same two metrics: what the trials are held against."""
    places: dict[tuple[float, float], None] = {}
    names = [axis.metric.partition(".")[2] for axis in (across, upright)]
    for sweep in found.sweeps:
        for node in dict.fromkeys(name.rpartition(".")[0] for name in sweep.baselines):
            values = [sweep.baselines.get(f"{node}.{name}") for name in names]
            if all(isinstance(value, (int, float)) for value in values):
                places[float(values[0] or 0) * across.factor, float(values[1] or 0) * upright.factor] = None
    return list(places)


def _name_points(axes: Axes, named: Sequence[tuple[str, tuple[float, float]]]) -> None:
    """Names beside the points; one that would stand on its neighbour's goes below."""
    from matplotlib.patheffects import withStroke

    if len(named) > MAX_NAMED:
        return
    by_place: dict[tuple[float, float], list[str]] = {}
    for name, place in named:
        by_place.setdefault(place, []).append(name)
    wide, high = (abs(bounds[1] - bounds[0]) or 1.0 for bounds in (axes.get_xlim(), axes.get_ylim()))
    last: tuple[float, float] | None = None
    for place, names in sorted(by_place.items()):
        crowds = last is not None and place[0] - last[0] < 0.12 * wide and abs(place[1] - last[1]) < 0.06 * high
        last = None if crowds else place
        text = ", ".join(names[:2]) + (f" +{len(names) - 2}" if len(names) > 2 else "")
        axes.annotate(
            text, place, xytext=(7, -14 if crowds else 6), textcoords="offset points", fontsize=8, color="#333333", zorder=5,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip


def _tick(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _plain_ticks(axes: Axes, *, is_whole: bool = False) -> None:
    """Parameters as 14,666; what is small or broken as it is."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10], integer=is_whole))
    axes.margins(0.12)


def _words(found: TradeOffs, axis: Axis) -> str:
    wanted = "more" if found.objectives[axis.metric] == "maximize" else "less"
    return f"{axis.text}\nof {axis.node}; {wanted} is better"


def _title(found: TradeOffs) -> str:
    names = ", ".join(f"{sweep.name} of run {sweep.run}" for sweep in found.sweeps[:3])
    more = f" and {len(found.sweeps) - 3} more" if len(found.sweeps) > 3 else ""
    so_far = "" if all(sweep.is_settled for sweep in found.sweeps) else ", so far"
    return f"{names}{more}: {len(found.points)} trials{so_far}"


def _page(found: TradeOffs, svg: str) -> str:
    """One page that needs nothing else: the picture, and the front as a table."""
    names = list(found.objectives)
    head = "".join(f"<th>{html.escape(text)}</th>" for text in ("run", "trial", "", *names, "values", "keys"))
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(point, names)) + "</tr>" for point in found.members
    )
    title = html.escape(_title(found))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n<style>'
        "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}"
        "svg{max-width:100%;height:auto}table{border-collapse:collapse;width:100%}"
        "td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd;font-variant-numeric:tabular-nums}"
        f"</style></head><body>\n<h1>{title}</h1>\n{svg[svg.index('<svg') :]}\n"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>\n</body></html>\n"
    )


def _cells(point: Point, names: Sequence[str]) -> list[str]:
    keys = ", ".join(f"{part} {key[:8]}" for part, key in point.trial.keys.items())
    figures = [format_figure(point.trial.metrics.get(name)) for name in names]
    return [
        point.found.run,
        point.label,
        "best" if point.is_best else "",
        *figures,
        values_text(point.found.values_of(point.trial)),
        keys,
    ]
