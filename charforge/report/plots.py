"""The report's figures as inline SVG: text stays text, colours are the page's, points have intervals.

Each figure is drawn twice, for a wide page and for a narrow one; the stylesheet shows the one that fits.
"""

from __future__ import annotations

import hashlib
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Estimate = Mapping[str, Any]

# Colours that stand for the page's own, which follow its light or dark theme. See page.css.
_COLOURS = {
    "#000001": "currentColor",
    "#000002": "var(--muted)",
    "#000003": "var(--line)",
    "#000004": "var(--paper)",
    "#000011": "var(--arm-base)",
    "#000012": "var(--arm-prompted)",
    "#000013": "var(--arm-middle)",
    "#000014": "var(--arm-final)",
}
_INK, _MUTED, _LINE, _PAPER = "#000001", "#000002", "#000003", "#000004"
_ROLES = {"base": "#000011", "prompted": "#000012", "middle": "#000013", "final": "#000014"}
_ROLES["absent"] = _MUTED
_SHAPES = {"base": "o", "prompted": "s", "middle": "^", "final": "D", "absent": "x"}
_WIDE, _NARROW = 680, 350


@dataclass(frozen=True)
class Arm:
    """An arm as the figures show it: a shape and a colour for its role, never a colour alone."""

    id: str
    role: str


def forest(
    name: str,
    label: str,
    rows: Sequence[tuple[str, Estimate | None]],
    *,
    axis: str,
    reference: float,
    limits: tuple[float, float] = (0.0, 1.0),
    total: bool = True,
) -> str:
    """One interval per row on a scale between the limits; with `total` the first row stands for all.

    A mark is hollow where the interval includes the reference.
    """

    def draw(wide: bool) -> str:
        step, gap, bottom = (25, 10, 42) if wide else (44, 8, 42)
        width = _WIDE if wide else _NARROW
        height = step * len(rows) + gap + bottom + 8
        canvas = _Canvas(width, height)
        left, right = (226, 474) if wide else (8, width - 8)
        axes = canvas.scale(left, right, bottom, height - 4, axis, limits)
        axes.plot([reference, reference], [0, 1], color=_INK, linewidth=1, dashes=(4, 3), clip_on=False)
        for index, (text, value) in enumerate(rows):
            first = total and not index
            top = height - 8 - index * step - (0 if first or not total else gap)
            y = top - step / 2 if wide else top - step * 0.72
            words = top - step / 2 if wide else top - step * 0.3
            weight = "bold" if first else "normal"
            shown = _short(text, 30 if wide else 26)
            canvas.text(0, words, shown, weight=weight)
            if value is None:
                canvas.text(right if not wide else 618, words, "not measured", align="right", colour=_MUTED)
                continue
            numbers = interval(value)
            if wide:
                canvas.text(618, words, numbers, align="right", weight=weight)
                canvas.text(_WIDE, words, f"n {value['n']}", align="right", colour=_MUTED)
            else:
                canvas.text(width, words, numbers, align="right", weight=weight)
                canvas.text(width - 120, words, f"n {value['n']}", align="right", colour=_MUTED)
            low, high = value["low"], value["high"]
            holds = low is None or low <= reference <= high
            _point(axes, canvas, value, y, "final", hollow=holds, size=9 if first else 8)
        return canvas.svg(f"{name}-{'wide' if wide else 'narrow'}", label, said)

    said = "; ".join(f"{text}: {interval(value) if value else 'not measured'}" for text, value in rows)
    return _both(draw)


def dots(
    name: str,
    label: str,
    rows: Sequence[tuple[str, Mapping[str, Estimate | None]]],
    arms: Sequence[Arm],
    *,
    axis: str,
) -> str:
    """A row for each measure with every arm's value and interval on a scale from 0 to 1."""

    def draw(wide: bool) -> str:
        lane, head, bottom = 13, (0 if wide else 22), 42
        step = head + lane * len(arms) + 16
        width = _WIDE if wide else _NARROW
        absent = any(values.get(arm.id) is None for _, values in rows for arm in arms)
        lines = _legend_lines([*arms, Arm("not measured", "absent")] if absent else arms, width)
        legend = 22 * len(lines) + 8
        height = step * len(rows) + legend + bottom
        canvas = _Canvas(width, height)
        left, right = (226, width - 12) if wide else (8, width - 8)
        axes = canvas.scale(left, right, bottom, height - legend, axis)
        for number, line in enumerate(lines):
            for x, arm in line:
                at = height - 12 - 22 * number
                _mark(canvas.overlay, x + 6, at, arm.role, size=8)
                canvas.text(x + 18, at, arm.id)
        for index, (text, values) in enumerate(rows):
            top = height - legend - index * step
            if index:
                canvas.rule(top)
            middle = top - step / 2 if wide else top - 15
            canvas.text(0, middle, _short(text, 29 if wide else 44))
            for number, arm in enumerate(arms):
                y = top - head - 8 - lane * (number + 0.5)
                value = values.get(arm.id)
                if value is None:
                    # At the left edge: an absent value is not one that hides behind another.
                    _mark(axes, 0, canvas.fraction(y), "absent", size=5)
                else:
                    _point(axes, canvas, value, y, arm.role, size=7)
        return canvas.svg(f"{name}-{'wide' if wide else 'narrow'}", label, said)

    def line(values: Mapping[str, Estimate | None]) -> str:
        known = ((arm.id, values.get(arm.id)) for arm in arms)
        return ", ".join(f"{arm} {interval(value) if value else 'not measured'}" for arm, value in known)

    said = "; ".join(f"{text}: {line(values)}" for text, values in rows)
    return _both(draw)


def curves(name: str, label: str, panels: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> str:
    """Small panels of (title, steps, values): each step as a thin line, a moving average as a strong one."""

    def draw(wide: bool) -> str:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        columns = min(3, len(panels)) if wide else 1
        width = _WIDE if wide else _NARROW
        across, down = (width / max(2, columns) if wide else width), 190
        rows = -(-len(panels) // columns)
        height = down * rows
        canvas = _Canvas(width, height)
        for index, (title, steps, values) in enumerate(panels):
            x0, top = across * (index % columns), height - down * (index // columns)
            canvas.text(x0, top - 12, title, weight="bold")
            axes = canvas.axes(x0 + 40, top - down + 40, across - 62, down - 70)
            axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            for way in (axes.xaxis, axes.yaxis):
                way.set_major_formatter(FuncFormatter(_plain))
                way.set_tick_params(length=0, labelsize=12, labelcolor=_MUTED)
            axes.grid(axis="y", color=_LINE, linewidth=1, clip_on=False)
            canvas.text(x0 + 40 + (across - 62) / 2, top - down + 10, "step", align="center", colour=_MUTED)
            smooth = _moving_average(values)
            if len(values) == 1:
                axes.set_xticks(steps)
                axes.plot(steps, values, "o", color=_ROLES["final"], markersize=5, clip_on=False)
            else:
                axes.plot(steps, values, color=_MUTED, linewidth=0.9, alpha=0.75, clip_on=False)
                axes.plot(steps, smooth, color=_ROLES["final"], linewidth=2, clip_on=False)
        return canvas.svg(f"{name}-{'wide' if wide else 'narrow'}", label, said)

    said = "; ".join(
        f"{title}: {len(values)} steps, between {fixed(min(values))} and {fixed(max(values))}"
        for title, _, values in panels
    )
    return _both(draw)


def lines(
    name: str,
    label: str,
    series: Sequence[tuple[Arm, Sequence[tuple[float, Estimate | None]]]],
    *,
    across: str,
    up: str,
) -> str:
    """For each arm a line of (x, value from 0 to 1) with its marks, and an upright line over the interval of each.

    Where there is no value the line has a gap.
    """

    def draw(wide: bool) -> str:
        width = _WIDE if wide else _NARROW
        keys = _legend_lines([arm for arm, _ in series], width)
        legend = 22 * len(keys) + 26
        height = legend + (240 if wide else 220)
        canvas = _Canvas(width, height)
        for number, line in enumerate(keys):
            for x, arm in line:
                y = height - 12 - 22 * number
                _mark(canvas.overlay, x + 6, y, arm.role, size=8)
                canvas.text(x + 18, y, arm.id)
        canvas.text(0, height - legend + 2, up, colour=_MUTED)
        axes = canvas.axes(34, 46, width - 50, height - legend - 64)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_ylim(0, 1)
        places = sorted({x for _, points in series for x, _ in points})
        least, most = places[0], places[-1]
        span = (most - least) or 1
        axes.set_xlim(least - 0.02 * span, most + 0.02 * span)
        for share in (0, 0.25, 0.5, 0.75, 1):
            axes.plot(axes.get_xlim(), [share, share], color=_LINE, linewidth=1, clip_on=False)
            canvas.text(28, 46 + share * (height - legend - 64), f"{share:g}", align="right", colour=_MUTED)
        last = float("-inf")
        for x in places:
            at = 34 + (x - least + 0.02 * span) / (1.04 * span) * (width - 50)
            if at - last >= 26:
                canvas.text(at, 34, _plain(x, 0), align="center", colour=_MUTED)
                last = at
        canvas.text(34 + (width - 50) / 2, 13, across, align="center", colour=_MUTED)
        # Beside each other, so that no interval hides behind another.
        aside = {
            arm.id: (place - (len(series) - 1) / 2) * 5 / (width - 50) * 1.04 * span
            for place, (arm, _) in enumerate(series)
        }
        for arm, points in series:
            shift = aside[arm.id]
            for run in (run for run in _runs(points) if len(run) > 1):
                xs, ys = [x + shift for x, _ in run], [v["value"] for _, v in run]
                axes.plot(xs, ys, color=_ROLES[arm.role], linewidth=1.5, clip_on=False)
            for x, value in points:
                if value is not None and value["low"] is not None and value["high"] is not None:
                    ends = [min(1.0, max(0.0, value[end])) for end in ("low", "high")]
                    axes.plot([x + shift] * 2, ends, color=_ROLES[arm.role], linewidth=1.5, alpha=0.6, clip_on=False)
        for arm, points in series:
            for x, value in points:
                if value is not None:
                    _mark(axes, x + aside[arm.id], value["value"], arm.role, size=7)
        return canvas.svg(f"{name}-{'wide' if wide else 'narrow'}", label, said)

    said = "; ".join(
        f"{arm.id}: " + ", ".join(f"{_plain(x, 0)}: {fixed(v['value']) if v else 'not measured'}" for x, v in points)
        for arm, points in series
    )
    return _both(draw)


def _runs(points: Sequence[tuple[float, Estimate | None]]) -> list[list[tuple[float, Estimate]]]:
    """The points between the gaps."""
    runs: list[list[tuple[float, Estimate]]] = [[]]
    for x, value in points:
        if value is None:
            runs.append([])
        else:
            runs[-1].append((x, value))
    return [run for run in runs if run]


def interval(value: Estimate, digits: int = 2) -> str:
    """`0.93 [0.88, 0.96]`, with a true minus sign and without a negative zero."""
    text = fixed(value["value"], digits)
    if value["low"] is None or value["high"] is None:
        return f"{text} (no interval)"
    return f"{text} [{fixed(value['low'], digits)}, {fixed(value['high'], digits)}]"


def fixed(value: float, digits: int = 2) -> str:
    """A number with so many decimals."""
    text = f"{value:.{digits}f}"
    if not text.strip("-0."):
        text = text.lstrip("-")
    return text.replace("-", "\u2212")


class _Canvas:
    """A figure measured in pixels of the page."""

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        # At 72 dots per inch a point, matplotlib's unit, is a pixel.
        self.figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        self.overlay = self.axes(0, 0, width, height)
        self.overlay.set_axis_off()
        self.overlay.set_xlim(0, width)
        self.overlay.set_ylim(0, height)
        self._span = (0.0, height)
        self._words: list[str] = []

    def axes(self, x: float, y: float, width: float, height: float) -> Any:
        box = (x / self.width, y / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(box)
        axes.patch.set_visible(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def scale(
        self,
        left: float,
        right: float,
        bottom: float,
        top: float,
        label: str,
        limits: tuple[float, float] = (0.0, 1.0),
    ) -> Any:
        """Axes between the limits with grid lines; `fraction` turns a height in pixels into their y."""
        from matplotlib.ticker import MaxNLocator

        axes = self.axes(left, bottom, right - left, top - bottom)
        axes.set_xlim(*limits)
        axes.set_ylim(0, 1)
        axes.set_xticks([])
        axes.set_yticks([])
        self._span = (bottom, top)
        low, high = limits
        ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        for value in [tick for tick in ticks if low <= tick <= high]:
            axes.plot([value, value], [0, 1], color=_LINE, linewidth=1, clip_on=False)
            at = left + (value - low) / (high - low) * (right - left)
            self.text(at, bottom - 11, _plain(value, 0), align="center", colour=_MUTED)
        self.text((left + right) / 2, bottom - 29, label, align="center", colour=_MUTED)
        return axes

    def fraction(self, y: float) -> float:
        bottom, top = self._span
        return (y - bottom) / (top - bottom)

    def rule(self, y: float) -> None:
        self.overlay.plot([0, self.width], [y, y], color=_LINE, linewidth=1, clip_on=False)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        align: str = "left",
        weight: str = "normal",
        colour: str = _INK,
    ) -> None:
        """Put words at (x, y), halfway up. matplotlib gets a token: it would read some words as TeX."""
        token = f"T{len(self._words)}"
        self._words.append(words)
        style = {"ha": align, "va": "center_baseline", "fontsize": 12, "weight": weight, "color": colour}
        self.overlay.text(x, y, token, **style)

    def svg(self, name: str, label: str, said: str) -> str:
        """The figure; `label` says what it shows, `said` what is to be seen in it."""
        import matplotlib

        buffer = io.StringIO()
        settings = {"svg.fonttype": "none", "svg.hashsalt": f"charforge {name}"}
        with matplotlib.rc_context(settings):
            self.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        drawn = _inline(buffer.getvalue(), name, label, said)
        return re.sub(r">T(\d+)</text>", lambda m: f">{html.escape(self._words[int(m[1])])}</text>", drawn)


def _inline(svg: str, name: str, label: str, said: str) -> str:
    """Fit for a page that holds several: no prolog, metadata, global style or names that would clash."""
    svg = svg[svg.index("<svg") :]
    for part in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->", r"\s*<defs>\s*</defs>"):
        svg = re.sub(part, "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="(?!m[0-9a-f]{6,}")[^"]*"', "", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", svg)
    svg = re.sub("#0000[01][0-9]", lambda match: _COLOURS[match[0]], svg)
    # The page's font; matplotlib says it in one property or in several.
    svg = re.sub(r"font: (bold |700 )?[^;\"]*;", lambda m: "font-weight: 700;" if m[1] else "", svg)
    svg = re.sub(r"font-(?:size|family): [^;\"]*; *", "", svg)
    box = re.search(r'viewBox="0 0 ([\d.]+) ', svg)
    assert box is not None
    safe = html.escape(label)
    about = f"figure-{hashlib.sha256(name.encode()).hexdigest()[:10]}"
    head = f'<svg role="img" aria-label="{safe}" aria-describedby="{about}" width="{float(box[1]):g}" viewBox='
    svg = re.sub(r"<svg .*?viewBox=", lambda _: head, svg, count=1, flags=re.DOTALL)
    words = f'><title>{safe}</title><desc id="{about}">{html.escape(said)}</desc>'
    svg = re.sub(r'(viewBox="[^"]*")[^>]*>', lambda m: m[1] + words, svg, count=1)
    return re.sub(r"\n\s*", "\n", svg).strip()


def _both(draw: Callable[[bool], str]) -> str:
    return f'<div class="plot wide">{draw(True)}</div>\n<div class="plot narrow">{draw(False)}</div>'


def _point(
    axes: Any, canvas: _Canvas, value: Estimate, y: float, role: str, *, size: float, hollow: bool = False
) -> None:
    at = canvas.fraction(y)
    if value["low"] is not None and value["high"] is not None:
        least, most = axes.get_xlim()
        ends = [max(least, value["low"]), min(most, value["high"])]
        axes.plot(ends, [at, at], color=_ROLES[role], linewidth=2, solid_capstyle="butt", clip_on=False)
    _mark(axes, value["value"], at, role, size=size, hollow=hollow)


def _mark(axes: Any, x: float, y: float, role: str, *, size: float, hollow: bool = False) -> None:
    shape = _SHAPES[role]
    axes.plot(
        [x],
        [y],
        shape,
        markersize=size - 1 if shape in "Ds" else size,
        markerfacecolor=_PAPER if hollow or role == "base" else _ROLES[role],
        markeredgecolor=_ROLES[role],
        markeredgewidth=1.75,
        clip_on=False,
    )


def _legend_lines(arms: Sequence[Arm], width: float) -> list[list[tuple[float, Arm]]]:
    """Where each arm stands in the legend, by an estimate of the width of its name."""
    lines: list[list[tuple[float, Arm]]] = [[]]
    x = 0.0
    for arm in arms:
        needed = 42 + 7.2 * len(arm.id)
        if lines[-1] and x + needed > width:
            lines.append([])
            x = 0.0
        lines[-1].append((x, arm))
        x += needed
    return lines


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _moving_average(values: Sequence[float]) -> list[float]:
    """Over about a tenth of the steps, and over fewer at either end."""
    half = len(values) // 20
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _plain(value: float, _: int) -> str:
    return f"{round(value, 10):g}".replace("-", "\u2212")
