"""Two versions on the same items: differences, tests, what a test can see, and how many tests were made.

Differences are always taken item by item. Clusters are the independent units, usually the base question.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from charforge.statistics.intervals import Estimate, clustered_error, mean

# Up to this many clusters all sign patterns are counted (2^14 = 16384); beyond it they are sampled.
_EXACT_CLUSTERS = 14
_FLIPS = 10_000
# Below this a standard error is rounding, not spread.
_NO_SPREAD = 1e-12


def paired_difference(a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable]) -> Estimate | None:
    """Mean of a - b over matched observations, with a clustered t interval."""
    return mean([x - y for x, y in zip(a, b, strict=True)], clusters)


def paired_change(new: Sequence[float], old: Sequence[float], clusters: Sequence[Hashable]) -> Estimate | None:
    """Mean of new - old with a 95% interval that is honest when nothing differs. Values lie in [0, 1].

    As `paired_difference`, but differences without spread between clusters do not get an interval of width 0: by the
    rule of three (Hanley & Lippman-Hand 1983) up to 3/C of C clusters may differ, each by no more than 1.
    None with fewer than two clusters.
    """
    found = paired_difference(new, old, clusters)
    if found is None or found.clusters < 2:
        return None
    if found.high - found.low > _NO_SPREAD:
        return found
    room = min(1.0, 3 / found.clusters)
    return replace(found, low=max(-1.0, found.value - room), high=min(1.0, found.value + room))


def paired_test(differences: Sequence[float], clusters: Sequence[Hashable], seed: int = 0) -> float | None:
    """Two-sided p of a mean difference of 0, by flipping the signs of whole clusters (Fisher 1935).

    Exact for up to 14 clusters whose sum is not 0 (the others are the same either way), else from 10,000 random flips
    with the observed one counted among them, so that p is never 0 (Phipson & Smyth 2010). None for no observations.
    """
    if not differences:
        return None
    sums: dict[Hashable, float] = {}
    for value, cluster in zip(differences, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value
    totals = np.array([total for total in sums.values() if abs(total) > _NO_SPREAD])
    if not len(totals):
        return 1.0
    # Sums that are equal but for rounding must count as equal.
    observed = abs(totals.sum()) - 1e-9 * np.abs(totals).sum()
    if len(totals) <= _EXACT_CLUSTERS:
        signs = (np.arange(2 ** len(totals))[:, None] >> np.arange(len(totals))) & 1
        return float(np.mean(np.abs((2 * signs - 1) @ totals) >= observed))
    random = np.random.default_rng(seed)
    extreme = 0
    for _ in range(10):  # in parts, for memory
        signs = random.integers(0, 2, (_FLIPS // 10, len(totals)), dtype=np.int8)
        extreme += int(np.sum(np.abs((2.0 * signs - 1.0) @ totals) >= observed))
    return (extreme + 1) / (_FLIPS + 1)


def minimum_detectable_effect(
    standard_error: float, confidence: float = 0.95, power: float = 0.8, df: int | None = None
) -> float:
    """The smallest true difference that a two-sided test finds with this power: (t_(1-a/2) + t_power) SE (Bloom 1995).

    With `df` degrees of freedom the quantiles are Student's, else normal. ValueError for an error that is NaN or negative.
    """
    from scipy.special import ndtri, stdtrit

    if not standard_error >= 0:
        raise ValueError(f"a standard error is no less than 0, not {standard_error}")
    quantile = ndtri if df is None else lambda share: stdtrit(df, share)
    return float(quantile(0.5 + confidence / 2) + quantile(power)) * standard_error


def minimum_detectable(
    differences: Sequence[float], clusters: Sequence[Hashable], confidence: float = 0.95, power: float = 0.8
) -> float | None:
    """The smallest mean difference that data like these can show. None with one cluster or without any spread."""
    error = clustered_error(differences, clusters)
    if math.isnan(error) or error <= _NO_SPREAD:
        return None
    return minimum_detectable_effect(error, confidence, power, len(set(clusters)) - 1)


@dataclass(frozen=True)
class NonInferiority:
    """Is the new version worse by less than `margin`? `value` is the mean of new - old.

    `bound` is its one-sided 95% lower bound and `holds` says whether it lies above -margin; `p` is that of a difference
    of -margin or less, for Holm across several gates. All three are None where there are fewer than two clusters.
    """

    value: float
    bound: float | None
    margin: float
    holds: bool | None
    p: float | None
    n: int
    clusters: int


def non_inferiority(
    new: Sequence[float], old: Sequence[float], clusters: Sequence[Hashable], margin: float
) -> NonInferiority | None:
    """One-sided test that new is worse than old by less than `margin` (Piaggio et al. 2012). None for no pairs.

    In general a clustered t test. Where all values are 0 or 1 it is Tango's score test (1998), on counts divided by the
    design effect of the clusters (Rao & Scott 1992): near 0 or 1, where safety is measured, a t test on a handful of losses
    passes models at the margin several times too often. Without spread between clusters it is the rule of three: up to
    3/C of C clusters may be worse, each by no more than 1, the range of a share.
    ValueError for a margin that is not positive.
    """
    from scipy.special import stdtr, stdtrit

    if not margin > 0:
        raise ValueError(f"a margin is greater than 0, not {margin}")
    differences = [x - y for x, y in zip(new, old, strict=True)]
    if not differences:
        return None
    n, count = len(differences), len(set(clusters))
    value, error = sum(differences) / n, clustered_error(differences, clusters)
    if count < 2:
        return NonInferiority(value, None, margin, None, None, n, count)
    if error <= _NO_SPREAD:
        bound = value - 3 / count
        # The chance that none of C clusters shows a loss which a share of value + margin of them has, at most.
        p = min(1.0, math.exp(-count * (value + margin)))
    elif {*new, *old} <= {0, 1}:
        bound, p = _score_bound(differences, clusters, margin)
    else:
        bound = value - float(stdtrit(count - 1, 0.95)) * error
        p = float(stdtr(count - 1, -(value + margin) / error))
    return NonInferiority(value, bound, margin, bound > -margin, p, n, count)


def _score_bound(differences: Sequence[float], clusters: Sequence[Hashable], margin: float) -> tuple[float, float]:
    """Tango's lower bound and p for a mean of differences of -1, 0 and 1."""
    from scipy.optimize import brentq
    from scipy.special import stdtr, stdtrit

    n, df = len(differences), len(set(clusters)) - 1
    # A few losses cannot show how losses cluster, so the design effect is taken with one more cluster that lost everything:
    # it costs power where each cluster has several observations, and without it too many pass where losses come together.
    lost = max(1, round(n / (df + 1)))
    more = [*differences, *[-1.0] * lost]
    error = clustered_error(more, [*((cluster,) for cluster in clusters), *[None] * lost])
    effect = max(1.0, error**2 / clustered_error(more, range(n + lost)) ** 2)
    size, b, c = n / effect, differences.count(1) / effect, differences.count(-1) / effect

    def score(shift: float) -> float:
        """How far the data lie above a true difference of `shift` < 0, in standard errors at that difference."""
        # The likeliest share of losses if the true difference is `shift`: the root of a quadratic equation.
        linear = -b - c + (2 * size - b + c) * shift
        share = (math.sqrt(linear**2 + 8 * size * c * shift * (1 - shift)) - linear) / (4 * size)
        return (b - c - size * shift) / math.sqrt(size * (2 * share + shift * (1 - shift)))

    target = float(stdtrit(df, 0.95))
    least = -1 + 1e-9
    bound = float(brentq(lambda shift: score(shift) - target, least, (b - c) / size)) if score(least) > target else -1.0
    return bound, float(stdtr(df, -score(-min(margin, 1 - 1e-9))))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p that hold the chance of any false finding (Holm 1979). For gates.

    The k-th smallest of m, times m - k + 1, and no less than any smaller one's.
    """
    p = np.sort(_checked(p_values))
    adjusted = np.minimum(1.0, np.maximum.accumulate(p * np.arange(len(p), 0, -1)))
    return {name: float(adjusted[place]) for name, place in zip(p_values, _ranks(p_values), strict=True)}


def benjamini_hochberg(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p that hold the expected share of false findings (Benjamini & Hochberg 1995). For overviews of many.

    The k-th smallest of m, times m / k, and no more than any larger one's.
    """
    p = np.sort(_checked(p_values))
    adjusted = np.minimum.accumulate((p * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1]
    return {name: float(adjusted[place]) for name, place in zip(p_values, _ranks(p_values), strict=True)}


def _ranks(p_values: Mapping[str, float]) -> np.ndarray:
    """The place of each among all of them in ascending order, from 0."""
    return np.argsort(np.argsort(list(p_values.values()), kind="stable"), kind="stable")


def _checked(p_values: Mapping[str, float]) -> list[float]:
    wrong = [name for name, p in p_values.items() if not 0 <= p <= 1]
    if wrong:
        raise ValueError(f"not a probability: the p of {', '.join(wrong)}")
    return list(p_values.values())
