"""A picture of a constitution: its traits on a circle by section, and its tensions as lines between them."""

from __future__ import annotations

import io
import math
from typing import Any

from charforge.constitution.model import Constitution, Trait

# Okabe & Ito's palette, told apart by colour-blind readers; sections take them in order.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8A7A00", "#333333")
_GREY = "#777777"


def graph(constitution: Constitution) -> str:
    """An SVG document. A dot is a trait, larger for a higher intensity; a numbered curve is a tension, named below.

    Text stays text, so that it can be searched and read aloud.
    """
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    places = _places(constitution)
    traits = [trait for trait in constitution.traits if trait.id in places]
    sections = list(dict.fromkeys(trait.section for trait in traits))
    colour = {section: _COLOURS[index % len(_COLOURS)] for index, section in enumerate(sections)}
    drawn = [t for t in constitution.tensions if t.between and all(side in places for side in t.between)]
    settings = {"svg.fonttype": "none", "svg.hashsalt": constitution.digest, "font.size": 10}
    with matplotlib.rc_context(settings):
        figure, axes = plt.subplots(figsize=(11, 8))
        axes.set_axis_off()
        axes.set_aspect("equal")
        axes.set_xlim(-2.4, 2.4)
        axes.set_ylim(-1.35, 1.35)
        axes.set_title(f"{constitution.name} {constitution.front.version}", loc="left", fontsize=14)
        for number, tension in enumerate(drawn, 1):
            _curve(axes, number, tension, places)
        for trait in traits:
            x, y = places[trait.id]
            axes.scatter([x], [y], s=40 + 260 * trait.intensity, color=colour[trait.section], zorder=3, linewidths=0)
            right = x >= -1e-9
            axes.text(
                x + (0.1 if right else -0.1), y, trait.title, ha="left" if right else "right", va="center", zorder=4
            )
        handles = [
            plt.Line2D([], [], marker="o", markersize=9, linestyle="", color=colour[section], label=section)
            for section in sections
        ]
        handles += [
            plt.Line2D(
                [],
                [],
                color=_GREY,
                linestyle="",
                marker=f"${number}$",
                markersize=8,
                label=f"{tension.title} (tension)",
            )
            for number, tension in enumerate(drawn, 1)
        ]
        axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), frameon=False, ncols=3)
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Title": constitution.reference}
        )
        plt.close(figure)
    return buffer.getvalue()


def _places(constitution: Constitution) -> dict[str, tuple[float, float]]:
    """Every trait that is no tension, on a circle; a tension that names no two traits stands there as well."""
    shown = [trait for trait in constitution.traits if trait.between is None]
    turn = 2 * math.pi / max(len(shown), 1)
    # Half a step on from the top, so that no two labels stand beside each other on one line.
    angles = {trait.id: math.pi / 2 - turn * (index + 0.5) for index, trait in enumerate(shown)}
    return {name: (math.cos(angle), 1.2 * math.sin(angle)) for name, angle in angles.items()}


def _curve(axes: Any, number: int, tension: Trait, places: dict[str, tuple[float, float]]) -> None:
    """A curve bent towards the middle, with its number on it; tensions that share an end bend differently."""
    assert tension.between is not None
    (x1, y1), (x2, y2) = (places[side] for side in tension.between)
    pull = 0.25 + 0.2 * (number % 3)
    cx, cy = (1 - pull) * (x1 + x2) / 2, (1 - pull) * (y1 + y2) / 2
    steps = [i / 40 for i in range(41)]
    xs = [(1 - t) ** 2 * x1 + 2 * t * (1 - t) * cx + t**2 * x2 for t in steps]
    ys = [(1 - t) ** 2 * y1 + 2 * t * (1 - t) * cy + t**2 * y2 for t in steps]
    axes.plot(xs, ys, color=_GREY, linewidth=1 + tension.intensity, zorder=1)
    axes.text(
        xs[20],
        ys[20],
        str(number),
        ha="center",
        va="center",
        fontsize=9,
        zorder=2,
        bbox={"boxstyle": "circle,pad=0.25", "facecolor": "white", "edgecolor": _GREY},
    )
