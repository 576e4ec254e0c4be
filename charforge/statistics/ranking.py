"""How strong is each of several items, from comparisons of two?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Outcome:
    """A comparison of two items. `share` in [0, 1] is what the first won of it: 1, 0, a tie 0.5, or a probability."""

    first: str
    second: str
    share: float
    cluster: Hashable


@dataclass(frozen=True)
class Strength:
    """An item's log-strength with its 95% interval: P(a beats b) = 1 / (1 + exp(b - a)). Natural logarithm, mean 0.

    `low` and `high` are None where the comparisons do not bound the strength.
    """

    value: float
    low: float | None
    high: float | None


def bradley_terry(
    outcomes: Sequence[Outcome],
    items: Sequence[str],
    bootstrap: int = 1000,
    seed: int = 0,
    regularisation: float = 0.3,
) -> dict[str, Strength | None]:
    """Strengths of items by maximum likelihood (Bradley & Terry 1952; fit by Maystre & Grossglauser 2015).

    Intervals are percentiles over resampled clusters. Each item is given `regularisation` wins and as many losses, spread
    over all others: that bounds the strengths where the data do not, and joins items that were never compared.
    The data bound differences only between items that beat each other, directly or through others (Ford 1957). An item
    outside the largest such set (it won all, lost all, or met few others) has a value but no interval; nor has one whose
    strength is the same in every resample. An item without any comparison is None.
    ValueError for fewer than two items, an item named twice, a regularisation that is not positive, and an outcome with an
    unknown item, an item against itself, or a share outside [0, 1].
    """
    known = set(items)
    if len(items) < 2 or len(known) < len(items):
        raise ValueError("a ranking needs two or more different items")
    if not regularisation > 0:
        raise ValueError(f"the regularisation is greater than 0, not {regularisation}")
    for outcome in outcomes:
        if not {outcome.first, outcome.second} <= known or outcome.first == outcome.second:
            raise ValueError(f"not a comparison of two of the items: {outcome}")
        if not 0 <= outcome.share <= 1:
            raise ValueError(f"a share is between 0 and 1: {outcome}")
    if not outcomes:
        return dict.fromkeys(items)

    from choix import ilsr_pairwise_dense
    from scipy.sparse.csgraph import connected_components

    compared = {item for outcome in outcomes for item in (outcome.first, outcome.second)}
    position = {item: index for index, item in enumerate(item for item in items if item in compared)}
    size = len(position)
    first = np.array([position[outcome.first] for outcome in outcomes])
    second = np.array([position[outcome.second] for outcome in outcomes])
    share = np.array([outcome.share for outcome in outcomes])
    # Each outcome is a win of `share` for the first and of the rest for the second, at these places of a flat matrix.
    places, wins = np.concatenate([first * size + second, second * size + first]), np.concatenate([share, 1 - share])
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(o.cluster for o in outcomes))}
    cluster = np.array([numbers[outcome.cluster] for outcome in outcomes] * 2)

    def table(weights: np.ndarray) -> np.ndarray:
        """table[i, j]: how often i beat j, each cluster counted `weights` times."""
        return np.bincount(places, wins * weights[cluster], size * size).reshape(size, size)

    def fit(won: np.ndarray, start: np.ndarray | None) -> np.ndarray:
        won = won + regularisation / (size - 1)
        return np.asarray(ilsr_pairwise_dense(won, initial_params=start, max_iter=10_000, tol=1e-6))

    won = table(np.ones(len(numbers)))
    found = fit(won, None)
    _, component = connected_components(won > 0, directed=True, connection="strong")
    sizes = np.bincount(component)
    random = np.random.default_rng(seed)
    draws = random.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), bootstrap)
    low, high = np.percentile([fit(table(draw), found) for draw in draws], [2.5, 97.5], axis=0)
    bounded = (component == sizes.argmax()) & (sizes.max() > 1) & (high - low > 1e-4)

    strengths: dict[str, Strength | None] = dict.fromkeys(items)
    for item, i in position.items():
        ends = (float(low[i]), float(high[i])) if bounded[i] else (None, None)
        strengths[item] = Strength(float(found[i]), *ends)
    return strengths
