"""Do two raters, or two measurements, agree? Chance-corrected agreement, reliability, correlation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from charforge.statistics.intervals import Estimate


def cohen_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float | None:
    """Agreement of two raters beyond the chance of their own marginals (Cohen 1960).

    Where one category is rare it can be near 0 although the raters almost always agree; read it beside `gwet_ac1`.
    None for no items, or if both use one and the same category only.
    """
    if not a:
        return None
    n, first, second = len(a), Counter(a), Counter(b)
    agreed = sum(x == y for x, y in zip(a, b, strict=True)) / n
    chance = sum(first[label] * second[label] for label in first) / n**2
    return (agreed - chance) / (1 - chance) if chance < 1 else None


def gwet_ac1(a: Sequence[Hashable], b: Sequence[Hashable]) -> float | None:
    """Agreement of two raters beyond chance, steady where one category is rare (Gwet 2008).

    Chance is sum over categories of q(1 - q) / (K - 1), with q the mean share of both raters and K the number of
    categories that occur. None for no items, or if only one category occurs.
    """
    shares = Counter(a) + Counter(b)
    if len(shares) < 2:
        return None
    n = len(a)
    agreed = sum(x == y for x, y in zip(a, b, strict=True)) / n
    chance = sum(k / (2 * n) * (1 - k / (2 * n)) for k in shares.values()) / (len(shares) - 1)
    return (agreed - chance) / (1 - chance)


def icc(matrix: Sequence[Sequence[float]]) -> float | None:
    """ICC(2,k): how reliable the average of k raters, or of k variants of a question, is (Shrout & Fleiss 1979).

    Rows are subjects, columns raters; two-way random effects, absolute agreement. It can be negative. None with fewer
    than two rows or columns, or if nothing varies. ValueError for rows of different lengths or missing values.
    """
    scores = np.array(matrix, dtype=float)
    if np.isnan(scores).any():
        raise ValueError("every rater must have rated every subject")
    if scores.ndim < 2 or min(scores.shape) < 2:
        return None
    n, k = scores.shape
    rows, columns, grand = scores.mean(axis=1), scores.mean(axis=0), scores.mean()
    between = k * ((rows - grand) ** 2).sum() / (n - 1)
    raters = n * ((columns - grand) ** 2).sum() / (k - 1)
    residual = ((scores - rows[:, None] - columns[None, :] + grand) ** 2).sum() / ((n - 1) * (k - 1))
    total = between + (raters - residual) / n
    return float((between - residual) / total) if total > 1e-12 else None


def pearson(a: Sequence[float], b: Sequence[float]) -> Estimate | None:
    """Linear correlation with Fisher's z interval (1921). None with fewer than 4 pairs or a side that does not vary."""
    from scipy.stats import pearsonr

    if not _varies(a, b):
        return None
    return _fisher(float(pearsonr(a, b).statistic), len(a), 1.0, 1 - 1e-12)


def spearman(a: Sequence[float], b: Sequence[float]) -> Estimate | None:
    """Rank correlation with Fisher's z interval, its error after Bonett & Wright (2000).

    Equal rankings get the interval of the nearest unequal ones: agreement on a few items is no certainty.
    None with fewer than 4 pairs or a side that does not vary.
    """
    from scipy.stats import spearmanr

    if not _varies(a, b):
        return None
    r, n = float(spearmanr(a, b).statistic), len(a)
    return _fisher(r, n, 1 + r * r / 2, 1 - 12 / (n * (n * n - 1)))


def _varies(a: Sequence[float], b: Sequence[float]) -> bool:
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values against {len(b)}")
    return len(a) >= 4 and min(a) < max(a) and min(b) < max(b)


def _fisher(r: float, n: int, variance: float, limit: float) -> Estimate:
    """The 95% interval on Fisher's scale, where r has variance `variance` / (n - 3); |r| counts as at most `limit`."""
    from scipy.special import ndtri

    z = math.atanh(max(-limit, min(limit, r)))
    half = float(ndtri(0.975)) * math.sqrt(variance / (n - 3))
    return Estimate(r, min(r, math.tanh(z - half)), max(r, math.tanh(z + half)), n, n)
