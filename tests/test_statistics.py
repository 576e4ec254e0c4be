"""Intervals hold what they promise: coverage by simulation, known values, clusters."""

from __future__ import annotations

import math

import numpy as np
import pytest

from charforge.statistics import clustered_error, mean, paired_difference, proportion, wilson


def test_wilson_known_values() -> None:
    # Newcombe 1998, table I: 81 of 263 and 15 of 148.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20)[0] == 0.0 and wilson(20, 20)[1] == pytest.approx(1.0)


@pytest.mark.parametrize(("p", "clusters", "size"), [(0.5, 40, 1), (0.9, 80, 1), (0.95, 60, 2), (0.7, 30, 4)])
def test_proportion_covers(p: float, clusters: int, size: int) -> None:
    """With strong correlation inside clusters the interval must still hold the truth about 95 times in 100."""
    random = np.random.default_rng(7)
    hits = 0
    for _ in range(600):
        # Beta-distributed cluster probabilities: intra-cluster correlation 1/3.
        chances = random.beta(2 * p, 2 * (1 - p), clusters)
        values = (random.random((clusters, size)) < chances[:, None]).astype(float)
        labels = np.repeat(np.arange(clusters), size)
        found = proportion(values.ravel().tolist(), labels.tolist())
        assert found is not None
        hits += found.low <= p <= found.high
    assert 0.92 <= hits / 600 <= 0.995


def test_ignoring_clusters_would_not_cover() -> None:
    """The same data without clusters: too narrow. This is why the clusters are there."""
    random = np.random.default_rng(3)
    naive = 0
    for _ in range(400):
        chances = random.beta(0.5, 0.5, 30)
        values = (random.random((30, 8)) < chances[:, None]).astype(float).ravel()
        low, high = wilson(values.sum(), len(values))
        naive += low <= 0.5 <= high
    assert naive / 400 < 0.8


def test_perfect_agreement_is_not_certainty() -> None:
    found = proportion([1.0] * 60, [i // 2 for i in range(60)])
    assert found is not None and found.value == 1 and found.low == pytest.approx(wilson(30, 30)[0])


def test_mean_type_one_error() -> None:
    random = np.random.default_rng(11)
    wrong = 0
    for _ in range(800):
        values = random.normal(0, 1, 25)
        found = mean(values.tolist(), list(range(25)))
        assert found is not None
        wrong += not found.low <= 0 <= found.high
    assert 0.03 <= wrong / 800 <= 0.07


def test_pairing_helps() -> None:
    random = np.random.default_rng(5)
    base = random.normal(0, 5, 50)
    found = paired_difference((base + 0.5).tolist(), base.tolist(), list(range(50)))
    assert found is not None and found.low == pytest.approx(0.5) and found.value == pytest.approx(0.5)


def test_clustered_error_by_hand() -> None:
    # Residuals -1, -1, 1, 1 in two clusters of equal values: sums -2 and 2; sqrt(2/1 * 8) / 4.
    assert clustered_error([0, 0, 2, 2], ["a", "a", "b", "b"]) == pytest.approx(1.0)
    assert math.isnan(clustered_error([1, 2], ["a", "a"]))


def test_nothing_is_none() -> None:
    assert proportion([], []) is None and mean([], []) is None
