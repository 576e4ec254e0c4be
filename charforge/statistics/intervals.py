"""Intervals of one quantity: rates, means, rates read off an imperfect judge, and statistics that are no mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
# With fewer clusters than this there are too few distinct resamples for the percentiles to mean what they say.
_MIN_CLUSTERS = 8
# Of the resamples, how many may leave the statistic undefined before its percentiles are those of another population.
_MAX_UNDEFINED = 0.05


# From so many observations on intervals by the central limit theorem hold.
_MANY = 300


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval. `n` counts observations, `clusters` the independent units they fall into."""

    value: float
    low: float
    high: float
    n: int
    clusters: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def wilson(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927). `n` may be a non-integer effective sample size."""
    from scipy.special import ndtri

    if n <= 0:
        return 0.0, 1.0
    z = float(ndtri(0.5 + confidence / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def share(p: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a share `p` of `n` observations, where n may be a non-integer effective sample size.

    Below 300 the Beta-Binomial credible interval, which holds where intervals by the central limit theorem do not (Bowyer
    et al. 2025); it ends at 0 or 1 where none or all succeeded (Brown, Cai & DasGupta 2001). Above that Wilson's.
    """
    if n <= 0:
        return 0.0, 1.0
    interval = wilson if n >= _MANY else beta_binomial
    low, high = interval(p * n, n, confidence=confidence)
    # Of few, the equal tails can leave out a share close to an end.
    return (0.0 if p <= 0 else min(low, p)), (1.0 if p >= 1 else max(high, p))


def beta_binomial(
    successes: float, n: float, prior: tuple[float, float] = (1.0, 1.0), confidence: float = 0.95
) -> tuple[float, float]:
    """Equal-tailed credible interval for a proportion under a Beta prior (Bowyer et al. 2025). Uniform by default."""
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    low, high = betaincinv(prior[0] + successes, prior[1] + n - successes, [tail, 1 - tail])
    return float(low), float(high)


def clustered_error(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Standard error of the mean when observations of one cluster are correlated.

    With residual sums r_c per cluster and C clusters: SE = sqrt(C / (C - 1) * sum r_c^2) / n  (Liang & Zeger 1986).
    """
    n, labels = len(values), list(dict.fromkeys(clusters))
    if len(labels) < 2:
        return math.nan
    mean = sum(values) / n
    sums: dict[Hashable, float] = dict.fromkeys(labels, 0.0)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value - mean
    return math.sqrt(len(labels) / (len(labels) - 1) * sum(r * r for r in sums.values())) / n


def proportion(values: Sequence[float], clusters: Sequence[Hashable], confidence: float = 0.95) -> Estimate | None:
    """Mean of values in [0, 1] with an interval that clusters and holds near 0 and 1.

    The clustered standard error gives an effective sample size n_eff = p(1-p)/SE^2 (Korn & Graubard 1998), at most
    the number of observations; where all values agree the SE is 0 and n_eff is the number of clusters. The interval of
    `share` at n_eff follows. None for no observations.
    """
    if not values:
        return None
    n, count = len(values), len(set(clusters))
    p = sum(values) / n
    error = clustered_error(values, clusters)
    variance = p * (1 - p)
    effective = variance / error**2 if error > 0 and not math.isnan(error) else float(count)
    effective = max(1.0, min(effective, float(n)))
    low, high = share(p, effective, confidence)
    return Estimate(p, low, high, n, count)


def mean(values: Sequence[float], clusters: Sequence[Hashable], confidence: float = 0.95) -> Estimate | None:
    """Mean with a clustered t interval (C - 1 degrees of freedom). None for no observations."""
    from scipy.special import stdtrit

    if not values:
        return None
    n, count = len(values), len(set(clusters))
    average = float(np.mean(values))
    if count < 2:
        return Estimate(average, math.nan, math.nan, n, count)
    half = float(stdtrit(count - 1, 0.5 + confidence / 2)) * clustered_error(values, clusters)
    return Estimate(average, average - half, average + half, n, count)


def corrected_rate(observed: Estimate, sensitivity: tuple[int, int], specificity: tuple[int, int]) -> Estimate | None:
    """The true rate behind a rate that an imperfect judge reported (Rogan & Gladen 1978), in [0, 1].

    `observed` is the judge's rate with its 95% interval, from `proportion`. `sensitivity` and `specificity` are
    (right, all) on calibration cases that are truly positive and truly negative; they must come from the kind of text
    the judge is used on. With q1 and q0 their shares, the rate is (p + q0 - 1) / (q0 + q1 - 1). The interval holds the
    uncertainty of p, q1 and q0 by the delta method, each share moved towards 1/2 so that a perfect calibration is not
    taken for certainty (Lang & Reiczigel 2014; for judges Lee et al. 2025, arXiv 2511.21140).
    None if a calibration class is empty, if q0 + q1 - 1 < 0.5, or if `observed` has no interval.
    """
    from scipy.special import ndtri

    (right1, m1), (right0, m0) = sensitivity, specificity
    if min(m1, m0) <= 0 or math.isnan(observed.low):
        return None
    q1, q0 = right1 / m1, right0 / m0
    if q1 + q0 - 1 < 0.5:
        return None
    value = min(1.0, max(0.0, (observed.value + q0 - 1) / (q1 + q0 - 1)))

    z = float(ndtri(0.975))
    # Centre and half width of Wilson's interval are the adjusted rate and z times its error, clusters included.
    p, error = (observed.low + observed.high) / 2, (observed.high - observed.low) / 2 / z
    q1, q0, m1, m0 = (right1 + 1) / (m1 + 2), (right0 + 1) / (m0 + 2), m1 + 2, m0 + 2
    theta = min(1.0, max(0.0, (p + q0 - 1) / (q1 + q0 - 1)))
    noise1, noise0 = theta * q1 * (1 - q1) / m1, (1 - theta) * q0 * (1 - q0) / m0
    half = z * math.sqrt(error**2 + theta * noise1 + (1 - theta) * noise0) / (q1 + q0 - 1)
    centre = theta + 2 * z * z * (noise1 - noise0)
    low, high = (min(1.0, max(0.0, end)) for end in (centre - half, centre + half))
    return Estimate(value, min(low, value), max(high, value), observed.n, observed.clusters)


def bootstrap(
    rows_by_cluster: Mapping[Any, Sequence[T]],
    statistic: Callable[[list[T]], float | None],
    n: int = 2000,
    seed: int = 0,
) -> Estimate | None:
    """A statistic of all rows with a 95% percentile interval from resampling whole clusters (Efron & Tibshirani 1993).

    For statistics that are no mean: a ratio, a correlation, a slope, a kappa. The statistic answers None where it is
    undefined. None if it is undefined on the rows themselves. The interval is NaN with fewer than 8 clusters, if more
    than 5% of the resamples leave the statistic undefined, and if all resamples agree, which says nothing about spread.
    """
    clusters = [list(rows) for rows in rows_by_cluster.values() if rows]
    rows = [row for cluster in clusters for row in cluster]
    value = statistic(rows) if rows else None
    if value is None:
        return None
    nothing = Estimate(value, math.nan, math.nan, len(rows), len(clusters))
    if len(clusters) < _MIN_CLUSTERS:
        return nothing
    draws = np.random.default_rng(seed).integers(0, len(clusters), (n, len(clusters)))
    found = [statistic([row for index in draw for row in clusters[index]]) for draw in draws]
    kept = [float(result) for result in found if result is not None]
    if len(kept) < (1 - _MAX_UNDEFINED) * n:
        return nothing
    low, high = (float(end) for end in np.percentile(kept, [2.5, 97.5]))
    return Estimate(value, low, high, len(rows), len(clusters)) if low < high else nothing
