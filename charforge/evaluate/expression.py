"""Expression: how often the judge finds an arm's reply more in character than the untrained model's to the same prompt."""

from __future__ import annotations

from charforge.statistics import Estimate, paired_difference, proportion
from charforge.store import Row


def wins(rows: list[Row], judge: str, arm: str, baseline: str) -> list[tuple[Row, float]]:
    """The arm's rows with 1 for a win over the baseline's sample of the same number, 0 for a loss, 1/2 for a tie.

    Where the judge gave no verdict the pair is left out (and counted by the caller).
    """
    base = {(r["scenario"], r["sample"]): r for r in rows if r["arm"] == baseline}
    result = []
    for row in rows:
        if row["arm"] != arm:
            continue
        other = base[row["scenario"], row["sample"]]
        mine, theirs = row["scores"].get(judge), other["scores"].get(judge)
        if mine is not None and theirs is not None:
            result.append((row, 0.5 if mine == theirs else float(mine > theirs)))
    return result


def win_rate(rows: list[Row], judge: str, arm: str, baseline: str, trait: str | None = None) -> Estimate | None:
    """Win rate with an interval that clusters by prompt; None if the judge gave no verdict."""
    found = [(r, w) for r, w in wins(rows, judge, arm, baseline) if trait is None or r["trait"] == trait]
    return proportion([w for _, w in found], [r["scenario"] for r, _ in found])


def margin(rows: list[Row], judge: str, arm: str, baseline: str) -> Estimate | None:
    """Mean paired difference of the judge's score between two arms, on the judge's own scale."""
    base = {(r["scenario"], r["sample"]): r for r in rows if r["arm"] == baseline}
    mine, theirs, clusters = [], [], []
    for row in rows:
        other = base.get((row["scenario"], row["sample"]))
        if row["arm"] != arm or other is None:
            continue
        a, b = row["scores"].get(judge), other["scores"].get(judge)
        if a is not None and b is not None:
            mine.append(a)
            theirs.append(b)
            clusters.append(row["scenario"])
    return paired_difference(mine, theirs, clusters) if mine else None
