"""A picture of a constitution: its traits on a circle by section, and its tensions as lines between them."""

from __future__ import annotations

import io
import math
from typing import Any

from charforge.constitution.model import Constitution, Trait

# Okabe & Ito's palette, told apart by colour-blind readers; sections take them in order.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8A7A00", "#555555")


def graph(constitution: Constitution) -> str:
    """An SVG document. A dot is a trait, larger for a higher intensity; a line is a tension, drawn with its title.

    Text stays text, so that it can be searched and read aloud.
    """
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    places = _places(constitution)
    sections = list(dict.fromkeys(trait.section for trait in constitution.traits))
    colour = {section: _COLOURS[index % len(_COLOURS)] for index, section in enumerate(sections)}
    traits = [trait for trait in constitution.traits if trait.id in places]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": constitution.digest, "font.size": 9}):
        figure, axes = plt.subplots(figsize=(10, 8))
        axes.set_axis_off()
        axes.set_aspect("equal")
        axes.set_xlim(-2.3, 2.3)
        axes.set_ylim(-1.5, 1.6)
        axes.set_title(f"{constitution.name} {constitution.front.version}", loc="left", fontsize=13)
        for tension in constitution.tensions:
            _line(axes, tension, places, colour)
        for trait in traits:
            x, y = places[trait.id]
            axes.scatter([x], [y], s=40 + 260 * trait.intensity, color=colour[trait.section], zorder=3, linewidths=0)
            side = "left" if x >= 0 else "right"
            gap = 0.09 if x >= 0 else -0.09
            axes.text(x + gap, y, trait.title, ha=side, va="center", zorder=4)
        handles = [
            plt.Line2D([], [], marker="o", linestyle="", color=colour[section], label=section)
            for section in sections
            if any(trait.section == section for trait in traits)
        ]
        if constitution.tensions:
            handles.append(plt.Line2D([], [], color="#888888", label="tension"))
        axes.legend(handles=handles, loc="lower left", frameon=False, ncols=1)
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Title": constitution.reference}
        )
        plt.close(figure)
    return buffer.getvalue()


def _places(constitution: Constitution) -> dict[str, tuple[float, float]]:
    """Every trait that is no tension, on a circle; a tension that names no two traits stands there as well."""
    shown = [trait for trait in constitution.traits if trait.between is None]
    return {
        trait.id: (
            math.cos(math.pi / 2 - 2 * math.pi * index / len(shown)),
            1.25 * math.sin(math.pi / 2 - 2 * math.pi * index / len(shown)),
        )
        for index, trait in enumerate(shown)
    }


def _line(axes: Any, tension: Trait, places: dict[str, tuple[float, float]], colour: dict[str, str]) -> None:
    if tension.between is None or not all(side in places for side in tension.between):
        return
    (x1, y1), (x2, y2) = (places[side] for side in tension.between)
    axes.plot([x1, x2], [y1, y2], color="#888888", linewidth=1 + tension.intensity, zorder=1)
    axes.text(
        (x1 + x2) / 2,
        (y1 + y2) / 2,
        tension.title,
        ha="center",
        va="center",
        fontsize=8,
        style="italic",
        zorder=2,
        bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none"},
    )
