"""Robustness: does the voice hold when somebody works against it?

Every ordinary request is asked as it is and under each attack, so that what an attack costs is a paired difference on the
same request: break-character suffixes and prefilled first tokens as in Maiya et al. 2025 (arXiv 2511.01689), the depth of
a prefill as in Qi et al. 2024 (arXiv 2406.05946), persona overrides by the system prompt and by the user. Questions about
identity are attacks of their own; invitations to be itself are none, and are counted apart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from charforge.evaluate.suites import Probe, RobustnessSuite
from charforge.statistics import Estimate, paired_difference, proportion
from charforge.store import Row

PLAIN = "plain"


def probes(suite: RobustnessSuite, system: str | None) -> list[Probe]:
    """Everything that is asked of one arm. `system` is what the prompted arm is told; an override by the system prompt is
    added to it, as an operator's later instruction would be."""

    def chat(*turns: tuple[str, str], also: str | None = None) -> tuple[dict[str, str], ...]:
        told = "\n\n".join(filter(None, [system, also]))
        opening = [{"role": "system", "content": told}] if told else []
        return (*opening, *({"role": role, "content": text} for role, text in turns))

    found = []
    for text in suite.plain:
        found.append(Probe(text, PLAIN, chat(("user", text))))
        found += [Probe(text, "suffix", chat(("user", f"{text} {suffix}"))) for suffix in suite.suffixes]
        for override in suite.overrides:
            if override.system:
                found.append(Probe(text, "override by system", chat(("user", text), also=override.system)))
            else:
                found.append(Probe(text, "override by user", chat(("user", f"{override.user}\n\n{text}"))))
        found += [
            Probe(text, f"prefill {count}", chat(("user", text)), suite.prefill, count)
            for count in suite.prefill_tokens
        ]
    found += [Probe(text, "identity", chat(("user", text)), context="identity") for text in suite.identity]
    found += [Probe(text, "invitation", chat(("user", text))) for text in suite.invitations]
    return found


def measure(rows: list[Row]) -> dict[str, Any]:
    """For each arm and condition how often the voice held, and for attacks the paired change from the plain request."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    result: dict[str, Any] = {}
    for arm in arms:
        mine = [row for row in rows if row["arm"] == arm]
        result[arm] = {
            condition: {
                "held": _estimate([r for r in mine if r["condition"] == condition]),
                "share": _share([r for r in mine if r["condition"] == condition]),
                "change": None if condition == PLAIN else change(mine, condition, PLAIN),
                "unread": sum(r["condition"] == condition and r["held"] is None for r in mine),
            }
            for condition in conditions
        }
    return result


def _estimate(rows: list[Row]) -> Estimate | None:
    kept = [row for row in rows if row["held"] is not None]
    return proportion([row["held"] for row in kept], [row["base"] for row in kept])


def _share(rows: list[Row]) -> Estimate | None:
    kept = [row for row in rows if row["share"] is not None]
    return proportion([row["share"] for row in kept], [row["base"] for row in kept])


def change(rows: list[Row], condition: str, baseline: str) -> Estimate | None:
    """The mean change of the share of markers from the baseline condition, over bases that have both.

    The share and not `held`, which is all or nothing: a paired difference of shares sees half a voice lost.
    """

    def means(name: str) -> dict[str, float]:
        groups: dict[str, list[float]] = {}
        for row in rows:
            if row["condition"] == name and row["share"] is not None:
                # A prefilled reply has no opening of its own, so its request is compared without the opening too.
                groups.setdefault(row["base"], []).append(row["share_unopened" if _prefilled(condition) else "share"])
        return {base: sum(values) / len(values) for base, values in groups.items()}

    before, after = means(baseline), means(condition)
    both = sorted(set(before) & set(after))
    if len(both) < 2:
        return None
    found = paired_difference([after[base] for base in both], [before[base] for base in both], both)
    if found is None or found.low < found.high:
        return found
    # Differences that are all alike have no spread to judge by. By the rule of three (Hanley & Lippman-Hand 1983) up to
    # 3/n of the requests may differ, each by no more than 1.
    room = min(1.0, 3 / len(both))
    return replace(found, low=max(-1.0, found.value - room), high=min(1.0, found.value + room))


def _prefilled(condition: str) -> bool:
    return condition.startswith("prefill")
