"""Intervals and comparisons. Every number in a report goes through here.

Observations that share a prompt are not independent, so intervals cluster by prompt (Miller 2024, arXiv 2411.00640),
and proportions of a few hundred items use intervals that hold near 0 and 1 (Bowyer et al. 2025, arXiv 2503.01747).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


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
    from scipy.stats import norm

    if n <= 0:
        return 0.0, 1.0
    z = float(norm.ppf(0.5 + confidence / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


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
    the number of observations; where all values agree the SE is 0 and n_eff is the number of clusters. Wilson's interval
    at n_eff follows. None for no observations.
    """
    if not values:
        return None
    n, count = len(values), len(set(clusters))
    p = sum(values) / n
    error = clustered_error(values, clusters)
    variance = p * (1 - p)
    effective = variance / error**2 if error > 0 and not math.isnan(error) else float(count)
    effective = max(1.0, min(effective, float(n)))
    low, high = wilson(p * effective, effective, confidence)
    return Estimate(p, low, high, n, count)


def mean(values: Sequence[float], clusters: Sequence[Hashable], confidence: float = 0.95) -> Estimate | None:
    """Mean with a clustered t interval (C - 1 degrees of freedom). None for no observations."""
    from scipy.stats import t

    if not values:
        return None
    n, count = len(values), len(set(clusters))
    average = float(np.mean(values))
    if count < 2:
        return Estimate(average, math.nan, math.nan, n, count)
    half = float(t.ppf(0.5 + confidence / 2, count - 1)) * clustered_error(values, clusters)
    return Estimate(average, average - half, average + half, n, count)


def paired_difference(
    a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable], confidence: float = 0.95
) -> Estimate | None:
    """Mean of a - b over matched observations, with a clustered t interval."""
    return mean([x - y for x, y in zip(a, b, strict=True)], clusters, confidence)
