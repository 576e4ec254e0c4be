"""How strong is each of several items, from comparisons of two?"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

# So many resamples are fitted in one batch.
_TOGETHER = 200
# A step that moves no two items further apart than this is the last; far fewer than so many are needed.
_STILL = 1e-8
_MOST_STEPS = 1000


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
    """Strengths of items by maximum likelihood (Bradley & Terry 1952), fit by Newton's method to all resamples at once.

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

    compared = {item for outcome in outcomes for item in (outcome.first, outcome.second)}
    position = {item: index for index, item in enumerate(item for item in items if item in compared)}
    size = len(position)
    first = np.array([position[outcome.first] for outcome in outcomes])
    second = np.array([position[outcome.second] for outcome in outcomes])
    share = np.array([outcome.share for outcome in outcomes])
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(o.cluster for o in outcomes))}
    cluster = np.array([numbers[outcome.cluster] for outcome in outcomes])
    # beaten[c, i, j]: how often i beat j in cluster c. An outcome is a win of `share` for the first, of the rest for the second.
    beaten = np.zeros((len(numbers), size, size))
    np.add.at(beaten, (cluster, first, second), share)
    np.add.at(beaten, (cluster, second, first), 1 - share)
    won = beaten.sum(axis=0)
    prior = regularisation / (size - 1)
    found = _fit(won + prior, np.zeros(size))
    beats = np.eye(size) + won > 0
    for _ in range(size.bit_length()):
        beats = beats @ beats  # directly or through others, twice as many at most in every round
    within = beats & beats.T
    largest = within.sum(axis=1).argmax()
    random = np.random.default_rng(seed)
    draws = random.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), bootstrap)
    resampled = (draws @ beaten.reshape(len(numbers), -1)).reshape(-1, size, size) + prior
    # In parts, for memory.
    fits = [_fit(part, found) for part in np.array_split(resampled, math.ceil(bootstrap / _TOGETHER))]
    low, high = np.percentile(np.concatenate(fits), [2.5, 97.5], axis=0)
    bounded = within[largest] & (within[largest].sum() > 1) & (high - low > 1e-4)

    strengths: dict[str, Strength | None] = dict.fromkeys(items)
    for item, i in position.items():
        ends = (float(low[i]), float(high[i])) if bounded[i] else (None, None)
        strengths[item] = Strength(float(found[i]), *ends)
    return strengths


def _fit(won: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The likeliest strengths, with mean 0, where won[..., i, j] says how often i beat j: more than never, for i != j.

    No step moves two items further than 1 apart: so far the curvature that it relies on holds, and the likelihood rises at
    every step (Bach 2010, arXiv 0910.4627).
    """
    size = won.shape[-1]
    games = (won + won.swapaxes(-1, -2)) * (1 - np.eye(size))
    strengths = np.broadcast_to(start, won.shape[:-1]).copy()
    for _ in range(_MOST_STEPS):
        chance = 1 / (1 + np.exp(strengths[..., None, :] - strengths[..., :, None]))
        slope = np.where(games > 0, won - games * chance, 0.0).sum(axis=-1)
        weight = games * chance * (1 - chance)
        # The mean is free: adding a constant matrix holds it where it is.
        curvature = np.eye(size) * weight.sum(axis=-1)[..., None] - weight + weight.mean(axis=(-1, -2), keepdims=True)
        step = np.linalg.solve(curvature, slope[..., None])[..., 0]
        spread = np.ptp(step, axis=-1, keepdims=True)
        strengths += step / np.maximum(1.0, spread)
        if spread.max() < _STILL:
            return strengths
    raise ArithmeticError("the strengths did not settle")
