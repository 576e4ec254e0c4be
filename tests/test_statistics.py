"""Intervals and tests hold what they promise: by simulation where the truth is planted, by published and hand-made values."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom, nct, norm, spearmanr, t, ttest_1samp

from charforge.statistics import (
    Contrast,
    Estimate,
    Outcome,
    RunNoise,
    benjamini_hochberg,
    beta_binomial,
    bootstrap,
    bradley_terry,
    clustered_error,
    cohen_kappa,
    corrected_rate,
    gwet_ac1,
    holm,
    icc,
    mean,
    minimum_detectable,
    minimum_detectable_effect,
    non_inferiority,
    paired_change,
    paired_difference,
    paired_test,
    pearson,
    proportion,
    run_noise,
    share,
    spearman,
    wilson,
)


def _covers(found: Estimate | None, truth: float) -> bool:
    assert found is not None
    return found.low <= truth <= found.high


def _correlated(random: np.random.Generator, p: float, clusters: int, size: int) -> tuple[list[float], list[int]]:
    """Zeros and ones with mean p and intra-cluster correlation 1/2: Beta-distributed cluster probabilities."""
    chances = random.beta(p, 1 - p, clusters)
    values = random.random((clusters, size)) < chances[:, None]
    return values.ravel().astype(float).tolist(), np.repeat(np.arange(clusters), size).tolist()


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
    assert found is not None and found.value == 1 and found.low == pytest.approx(share(1.0, 30)[0])


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


# Intervals


@pytest.mark.parametrize("n", [30, 100, 1000])
def test_independent_coverage(n: int) -> None:
    random, labels, runs = np.random.default_rng(1), list(range(n)), 1500
    rates = means = 0
    for _ in range(runs):
        # Rates over the whole range: at a single one the coverage of any interval for counts jumps with n.
        p = random.uniform(0.1, 0.9)
        rates += _covers(proportion((random.random(n) < p).astype(float).tolist(), labels), p)
        means += _covers(mean(random.normal(2, 3, n).tolist(), labels), 2)
    assert 0.93 <= rates / runs <= 0.97 and 0.93 <= means / runs <= 0.97


@pytest.mark.parametrize(("clusters", "size"), [(30, 5), (100, 5), (200, 5)])
def test_clustered_coverage(clusters: int, size: int) -> None:
    """At an intra-cluster correlation of 1/2 the clustered intervals cover, and those that ignore clusters do not."""
    random, runs = np.random.default_rng(2), 1000
    rates = means = naive = 0
    for _ in range(runs):
        values, labels = _correlated(random, 0.4, clusters, size)
        rates += _covers(proportion(values, labels), 0.4)
        means += _covers(mean(values, labels), 0.4)
        low, high = wilson(sum(values), len(values))
        naive += low <= 0.4 <= high
    assert 0.93 <= rates / runs <= 0.97 and 0.93 <= means / runs <= 0.97
    assert naive / runs < 0.85


def test_credible_intervals() -> None:
    # Uniform prior and n of n: the lower end is 0.025^(1/(n+1)).
    assert beta_binomial(10, 10) == pytest.approx((0.025 ** (1 / 11), 0.975 ** (1 / 11)))
    assert beta_binomial(0, 0) == pytest.approx((0.025, 0.975))


@pytest.mark.parametrize(
    ("truth", "q1", "q0", "n", "cases"),
    [(0.3, 0.85, 0.9, 1000, 50), (0.1, 0.9, 0.95, 300, 100), (0.9, 0.95, 0.85, 500, 60)],
)
def test_corrected_rate_covers(truth: float, q1: float, q0: float, n: int, cases: int) -> None:
    """The corrected interval holds the true rate. The judge's own does not, nor does one that takes q1 and q0 as known."""
    random, runs = np.random.default_rng(3), 1000
    corrected = raw = known = 0
    for _ in range(runs):
        k = int(random.binomial(n, truth * q1 + (1 - truth) * (1 - q0)))
        low, high = wilson(k, n)
        right1, right0 = int(random.binomial(cases, q1)), int(random.binomial(cases, q0))
        corrected += _covers(corrected_rate(Estimate(k / n, low, high, n, n), (right1, cases), (right0, cases)), truth)
        raw += low <= truth <= high
        power = (right1 + right0) / cases - 1
        known += (low + right0 / cases - 1) / power <= truth <= (high + right0 / cases - 1) / power
    assert 0.93 <= corrected / runs <= 0.985
    assert raw / runs < 0.85 and known / runs < 0.85


def test_corrected_rate_with_clusters_covers() -> None:
    random, runs, covered = np.random.default_rng(4), 600, 0
    for _ in range(runs):
        truth, labels = _correlated(random, 0.3, 60, 5)
        chance = np.where(np.array(truth) > 0, 0.9, 0.1)
        seen = (random.random(len(truth)) < chance).astype(float).tolist()
        observed = proportion(seen, labels)
        assert observed is not None
        right1, right0 = int(random.binomial(100, 0.9)), int(random.binomial(100, 0.9))
        covered += _covers(corrected_rate(observed, (right1, 100), (right0, 100)), 0.3)
    assert 0.93 <= covered / runs <= 0.98


def test_corrected_rate_by_hand() -> None:
    observed = Estimate(0.5, *wilson(50, 100), 100, 100)
    found = corrected_rate(observed, (90, 100), (80, 100))
    assert found is not None and found.value == pytest.approx((0.5 + 0.8 - 1) / 0.7) and found.n == 100
    # A perfect calibration on 20 cases leaves the rate where it is and still widens the interval.
    perfect = corrected_rate(observed, (20, 20), (20, 20))
    assert perfect is not None and perfect.value == 0.5
    assert perfect.low < observed.low and perfect.high > observed.high
    # Below the false positives of the judge the rate is 0, and within its interval.
    none_left = corrected_rate(Estimate(0.02, *wilson(2, 100), 100, 100), (90, 100), (80, 100))
    assert none_left is not None and none_left.value == 0 and none_left.low == 0 and none_left.high > 0
    assert corrected_rate(observed, (0, 0), (80, 100)) is None
    assert corrected_rate(observed, (74, 100), (75, 100)) is None
    assert corrected_rate(Estimate(0.5, math.nan, math.nan, 3, 1), (90, 100), (90, 100)) is None


def test_bootstrap_of_a_ratio_covers() -> None:
    random, runs, covered = np.random.default_rng(5), 150, 0

    def ratio(rows: list[tuple[float, float]]) -> float | None:
        return sum(row[0] for row in rows) / sum(row[1] for row in rows)

    for _ in range(runs):
        shared = random.gamma(4, 1, 40)
        rows = {c: [(2 * x + e, x) for e in random.normal(0, 1, 2)] for c, x in enumerate(shared.tolist())}
        covered += _covers(bootstrap(rows, ratio, n=200), 2)
    assert 0.89 <= covered / runs <= 0.985


def test_bootstrap_refuses_what_it_can_not_say() -> None:
    rows = {c: [float(c), c + 1.0] for c in range(8)}
    found = bootstrap(rows, lambda r: sum(r) / len(r), n=300)
    assert found is not None and (found.n, found.clusters) == (16, 8) and found.low < found.value == 4 < found.high
    assert found == bootstrap(rows, lambda r: sum(r) / len(r), n=300)
    few = bootstrap({c: rows[c] for c in range(7)}, lambda r: sum(r) / len(r))
    assert few is not None and few.value == 3.5 and math.isnan(few.low)
    alike = bootstrap({c: [1.0] for c in range(20)}, lambda r: sum(r) / len(r), n=50)
    assert alike is not None and alike.value == 1 and math.isnan(alike.low) and math.isnan(alike.high)
    # Undefined without the one cluster that 35% of the resamples miss.
    undefined = bootstrap(rows, lambda r: sum(r) if 0.0 in r else None, n=300)
    assert undefined is not None and undefined.value == sum(range(8)) + sum(range(1, 9)) and math.isnan(undefined.low)
    assert bootstrap({}, lambda r: 1.0) is None and bootstrap(rows, lambda r: None) is None


# Comparisons


def test_paired_test_by_hand() -> None:
    # Eight sign patterns of 1, 2, 3; only +++ and --- are as far out. 3, -1: |2| or more in all four.
    assert paired_test([1, 2, 3], "abc") == pytest.approx(2 / 8)
    assert paired_test([3, -1], "ab") == 1
    # Whole clusters flip: four observations in two clusters give four patterns.
    assert paired_test([1, 1, 1, 1], "aabb") == pytest.approx(2 / 4)
    assert paired_test([0, 0, 0], "abc") == 1 and paired_test([], []) is None
    # Clusters without a difference change nothing, and equal sums count as equal in spite of rounding.
    assert paired_test([1, 2, 3] + [0] * 30, range(33)) == pytest.approx(2 / 8)
    assert paired_test([0.1, 0.2, -0.3], "abc") == 1
    # Sampled: never 0, and the same on every call.
    assert paired_test([1.0] * 60, range(60)) == pytest.approx(1 / 10001)
    values = np.random.default_rng(0).normal(0.2, 1, 40).tolist()
    assert paired_test(values, range(40)) == paired_test(values, range(40))


@pytest.mark.parametrize(("clusters", "size", "runs"), [(12, 3, 1500), (25, 2, 600)])
def test_paired_test_type_one_error(clusters: int, size: int, runs: int) -> None:
    """Exact and sampled; correlated within clusters, where a test that ignores them is wrong much too often."""
    random, labels = np.random.default_rng(6), np.repeat(np.arange(clusters), size).tolist()
    wrong = naive = 0
    for _ in range(runs):
        values = (np.repeat(random.normal(0, 1, clusters), size) + random.normal(0, 0.5, clusters * size)).tolist()
        p = paired_test(values, labels)
        assert p is not None
        wrong += p <= 0.05
        naive += not _covers(mean(values, list(range(len(values)))), 0)
    assert 0.03 <= wrong / runs <= 0.06
    assert naive / runs > 0.1


def test_paired_test_has_the_power_of_theory() -> None:
    random, n, effect, runs = np.random.default_rng(7), 50, 0.4, 500
    found = 0
    for _ in range(runs):
        p = paired_test(random.normal(effect, 1, n).tolist(), range(n))
        assert p is not None
        found += p <= 0.05
    theory = nct.sf(t.ppf(0.975, n - 1), n - 1, effect * math.sqrt(n))
    assert found / runs == pytest.approx(theory, abs=0.05)


def test_minimum_detectable_effect_is_detected() -> None:
    assert minimum_detectable_effect(1) == pytest.approx(norm.ppf(0.975) + norm.ppf(0.8))
    assert minimum_detectable_effect(0.5, df=9) == pytest.approx(0.5 * (t.ppf(0.975, 9) + t.ppf(0.8, 9)))
    with pytest.raises(ValueError, match="standard error"):
        minimum_detectable_effect(math.nan)
    random, runs, clusters, size = np.random.default_rng(9), 1500, 40, 3
    labels = np.repeat(np.arange(clusters), size).tolist()
    # Cluster means have variance 1 + 1/3.
    effect = minimum_detectable_effect(math.sqrt((1 + 1 / 3) / clusters), df=clusters - 1)
    found, stated = 0, []
    for _ in range(runs):
        noise = np.repeat(random.normal(0, 1, clusters), size) + random.normal(0, 1, clusters * size)
        found += not _covers(mean((noise + effect).tolist(), labels), 0)
        stated.append(minimum_detectable(noise.tolist(), labels))
    assert found / runs == pytest.approx(0.8, abs=0.03)
    assert np.mean([x for x in stated if x is not None]) == pytest.approx(effect, rel=0.03)


def test_minimum_detectable_needs_spread() -> None:
    assert minimum_detectable([1, 1, 1], "abc") is None
    assert minimum_detectable([1, 2], "aa") is None and minimum_detectable([], []) is None


def test_paired_change_is_honest_without_spread() -> None:
    varied = paired_change([1, 0, 1, 1], [0, 0, 1, 0], "abcd")
    assert varied == paired_difference([1, 0, 1, 1], [0, 0, 1, 0], "abcd")
    alike = paired_change([0.9] * 30, [0.9] * 30, range(30))
    assert alike is not None and (alike.low, alike.value, alike.high) == pytest.approx((-0.1, 0, 0.1))
    # Differences that are equal but for rounding are equal.
    rounded = paired_change([0.3, 0.7, 0.2], [0.1 + 0.2, 0.6 + 0.1, 0.2], "abc")
    assert rounded is not None and (rounded.low, rounded.high) == pytest.approx((-1, 1))
    assert paired_change([1], [0], "a") is None and paired_change([], [], []) is None


@pytest.mark.parametrize(("n", "margin"), [(44, 0.1), (100, 0.1), (121, 0.05), (101, 0.03), (200, 0.03), (296, 0.03)])
def test_non_inferiority_at_the_ceiling(n: int, margin: float) -> None:
    """A model that was always right and now fails at exactly the margin: the chance that it passes, over all outcomes."""
    passes = student = 0.0
    old = [1.0] * n
    for losses in range(int(n * margin) + 2):
        new, chance = [0.0] * losses + [1.0] * (n - losses), float(binom.pmf(losses, n, margin))
        found = non_inferiority(new, old, range(n), margin)
        assert found is not None and found.holds is not None
        passes += chance * found.holds
        found_by_t = mean([a - b for a, b in zip(new, old, strict=True)], range(n), 0.9)
        student += chance * (found_by_t is not None and found_by_t.low > -margin)
    assert passes <= 0.06
    assert student > 0.11  # why it is no t test


def test_non_inferiority_at_the_margin() -> None:
    random, runs, margin, n = np.random.default_rng(11), 1500, 0.05, 30
    continuous = clustered = discordant = 0
    for _ in range(runs):
        found = non_inferiority(random.normal(-margin, 0.2, n).tolist(), [0.0] * n, range(n), margin)
        assert found is not None and found.holds == (found.p is not None and found.p < 0.05)
        continuous += bool(found.holds)
        values, labels = _correlated(random, margin, 60, 4)
        found = non_inferiority([1 - x for x in values], [1.0] * len(values), labels, margin)
        clustered += found is not None and bool(found.holds)
        u = random.random(200)
        gain, loss = u < 0.05, u > 1 - 0.05 - margin
        found = non_inferiority((~loss).astype(float).tolist(), (~gain).astype(float).tolist(), range(200), margin)
        discordant += found is not None and bool(found.holds)
    assert max(continuous, clustered, discordant) / runs <= 0.06
    assert continuous / runs >= 0.035


def test_non_inferiority_can_pass() -> None:
    random, runs = np.random.default_rng(12), 300
    single = several = 0
    for _ in range(runs):
        found = non_inferiority((random.random(400) >= 0.01).astype(float).tolist(), [1.0] * 400, range(400), 0.05)
        single += found is not None and bool(found.holds)
        labels = np.repeat(np.arange(100), 4).tolist()
        found = non_inferiority((random.random(400) >= 0.01).astype(float).tolist(), [1.0] * 400, labels, 0.05)
        several += found is not None and bool(found.holds)
    assert single / runs > 0.95 and several / runs > 0.9


def test_non_inferiority_score_test_by_brute_force() -> None:
    """Tango's p against the likelihood maximised by a general optimiser."""
    n, gains, losses, margin = 120, 4, 9, 0.1
    old = [1.0] * n
    new = [0.0] * losses + [1.0] * (n - losses)
    for i in range(gains):
        old[n - 1 - i] = 0.0
    found = non_inferiority(new, old, range(n), margin)
    assert found is not None

    def unlikely(loss: float) -> float:
        gain = loss - margin
        return -(gains * math.log(gain) + losses * math.log(loss) + (n - gains - losses) * math.log(1 - gain - loss))

    loss = minimize_scalar(unlikely, bounds=(margin + 1e-9, (1 + margin) / 2 - 1e-9), options={"xatol": 1e-10}).x
    error = math.sqrt((2 * loss - margin - margin**2) / n)
    assert found.p == pytest.approx(t.sf(((gains - losses) / n + margin) / error, n - 1), rel=1e-4)
    at_bound = non_inferiority(new, old, range(n), -found.bound if found.bound else math.nan)
    assert at_bound is not None and at_bound.p == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize("size", [1, 8])
def test_losses_are_never_good_news(size: int) -> None:
    clusters, labels = 60, np.repeat(np.arange(60), size).tolist()
    found = []
    for losses in range(12):
        new = np.ones((clusters, size))
        new[:losses, 0] = 0  # each in a cluster of its own
        result = non_inferiority(new.ravel().tolist(), [1.0] * len(labels), labels, 0.1)
        assert result is not None and result.p is not None
        found.append(result.p)
    assert found[0] == min(found) < 0.05
    # With several observations per cluster, losses that do not come together are also evidence of independence.
    assert size > 1 or found == sorted(found)


def test_non_inferiority_edges() -> None:
    same = non_inferiority([1.0] * 40, [1.0] * 40, range(40), 0.1)
    assert (
        same is not None
        and same.bound == pytest.approx(-3 / 40)
        and same.holds is True
        and same.p == pytest.approx(math.exp(-4))
    )
    few = non_inferiority([1.0] * 20, [1.0] * 20, range(20), 0.1)
    assert few is not None and few.holds is False and few.p == pytest.approx(math.exp(-2))
    one = non_inferiority([1.0, 0.0], [1.0, 1.0], "aa", 0.1)
    assert one is not None and one.value == -0.5 and (one.bound, one.holds, one.p) == (None, None, None)
    lost = non_inferiority([0.0] * 9 + [1.0], [1.0] * 10, range(10), 0.1)
    assert lost is not None and lost.bound is not None and -1 <= lost.bound < -0.9 and lost.holds is False
    assert non_inferiority([], [], [], 0.1) is None
    with pytest.raises(ValueError, match="margin"):
        non_inferiority([1.0], [1.0], "a", 0)


def test_adjusted_p_by_hand() -> None:
    raw = {"c": 0.03, "a": 0.01, "b": 0.02, "d": 0.5}
    assert holm(raw) == pytest.approx({"c": 0.06, "a": 0.04, "b": 0.06, "d": 0.5})
    assert benjamini_hochberg(raw) == pytest.approx({"c": 0.04, "a": 0.04, "b": 0.04, "d": 0.5})
    assert list(holm(raw)) == list(benjamini_hochberg(raw)) == ["c", "a", "b", "d"]
    assert holm({}) == {} == benjamini_hochberg({})
    with pytest.raises(ValueError, match="the p of b"):
        holm({"a": 0.5, "b": math.nan})


def test_adjustment_holds_its_error() -> None:
    random, runs, names = np.random.default_rng(13), 1500, [str(i) for i in range(20)]
    family = raw = 0
    shares, power = [], []
    for _ in range(runs):
        null = dict(zip(names, random.random(20).tolist(), strict=True))
        raw += min(null.values()) <= 0.05
        family += min(holm(null).values()) <= 0.05
        # Ten real effects of three standard errors among the twenty.
        z = random.normal(0, 1, 20) + np.repeat([3, 0], 10)
        found = benjamini_hochberg(dict(zip(names, norm.sf(z).tolist(), strict=True)))
        hits = np.array([found[name] <= 0.1 for name in names])
        shares.append(hits[10:].sum() / max(1, hits.sum()))
        power.append(hits[:10].mean())
    assert family / runs <= 0.06 and raw / runs > 0.5
    assert np.mean(shares) <= 0.1 and np.mean(power) > 0.8


# Ranking


def _tournament(random: np.random.Generator, strengths: dict[str, float], each: int) -> list[Outcome]:
    names = list(strengths)
    found = []
    for number in range(each * len(names) // 2):
        first, second = random.choice(names, 2, replace=False)
        chance = 1 / (1 + math.exp(strengths[second] - strengths[first]))
        found.append(Outcome(str(first), str(second), float(random.random() < chance), number))
    return found


def test_bradley_terry_recovers_planted_strengths() -> None:
    random, ranks, covered = np.random.default_rng(14), [], []
    for _ in range(10):
        truth = dict(zip("abcdefghijkl", random.permutation(np.linspace(-3, 3, 12)).tolist(), strict=True))
        found = bradley_terry(_tournament(random, truth, 40), list(truth), bootstrap=150)
        values = [strength.value for strength in found.values() if strength]
        assert len(values) == 12 and sum(values) == pytest.approx(0, abs=1e-6)
        ranks.append(spearmanr(values, list(truth.values())).statistic)
        for item, strength in found.items():
            if strength is not None and strength.low is not None and strength.high is not None:
                covered.append(strength.low <= truth[item] <= strength.high)
    assert np.mean(ranks) > 0.95
    assert len(covered) > 100 and np.mean(covered) >= 0.9


def test_a_share_of_none_of_many_begins_at_nothing() -> None:
    for n in (20, 400):
        low, high = share(0.0, n)
        least, most = share(1.0, n)
        assert low == 0.0 < high < 0.2 and most == 1.0 and least == pytest.approx(1 - high)


def test_noise_between_runs_is_found_from_their_contrasts() -> None:
    """Planted: effects of 10 measures in 40 pairs of runs vary by 1 / n from prompts and by 0.09 from training."""
    random = np.random.default_rng(23)
    sizes = [80] * 6 + [10] * 4
    pairs = [[Contrast(float(random.normal(0, math.sqrt(1 / n + 0.09))), n) for n in sizes] for _ in range(40)]
    noise = run_noise(pairs)
    assert noise is not None and noise.contrasts == 400 and noise.variance == pytest.approx(0.09, rel=0.2)
    # Kish's count of a pair is (6 * 80 + 4 * 10)^2 / (6 * 80^2 + 4 * 10^2).
    assert noise.df == pytest.approx(40 * 520**2 / (6 * 6400 + 400) / 2)
    # Effects over few prompts are large by chance alone, since their own spread is hardly known.
    few = [[Contrast(float(random.normal(0, 0.5) / max(0.3, random.chisquare(3) / 3)), 4) for _ in range(22)]]
    assert run_noise(few) is None
    assert run_noise([*few, [Contrast(0.0, 80)]]) == run_noise([[Contrast(0.0, 80)]])
    quiet = run_noise([[Contrast(float(random.normal(0, math.sqrt(1 / n))), n) for n in sizes] for _ in range(40)])
    assert quiet is not None and quiet.variance < 0.005
    # Without noise it is the t test over prompts; with it a small p needs more than prompts.
    still = RunNoise(0.0, 5.0, 1)
    assert still.p(0.5, 80) == pytest.approx(ttest_1samp([0.5 + d for d in _unit(80)], 0).pvalue, rel=1e-6)
    assert noise.p(0.5, 80) > 0.09 > 1e-4 > still.p(0.5, 80) and noise.p(0.5, 80, 0.5) < noise.p(0.5, 80)
    assert noise.half_width(80) > still.half_width(80) and noise.detectable(80) > noise.half_width(80)
    assert run_noise([]) is None and run_noise([[Contrast(1.0, 1)]]) is None


def _unit(n: int) -> list[float]:
    """n numbers with mean 0 and standard deviation 1."""
    values = np.linspace(-1, 1, n)
    return [float(v) for v in values / values.std(ddof=1)]


def test_bradley_terry_is_the_likeliest() -> None:
    """Of two, the log odds of the wins; of several, expected wins are those that were won (Ford 1957)."""
    swept = bradley_terry([Outcome("a", "b", 1, k) for k in range(500)], ["a", "b"], bootstrap=2)["a"]
    assert swept is not None and swept.value == pytest.approx(math.log(500.3 / 0.3) / 2, abs=1e-6)
    truth = dict(zip("abcde", (-6.0, -2.0, 0.0, 1.0, 7.0), strict=True))
    outcomes = _tournament(np.random.default_rng(19), truth, 30)
    found = {name: strength.value for name, strength in bradley_terry(outcomes, list(truth), 2).items() if strength}
    for name, own in found.items():
        won = expected = 0.0
        for o in [*outcomes, *(Outcome(x, y, 0.5, 0) for x, y in combinations(truth, 2))]:
            weight = 1.0 if o.share in (0, 1) else 0.15
            if name in (o.first, o.second):
                won += weight * (o.share if name == o.first else 1 - o.share)
                expected += weight / (1 + math.exp(found[o.second if name == o.first else o.first] - own))
        assert won == pytest.approx(expected, abs=1e-5)


def test_bradley_terry_clusters_widen() -> None:
    """Ten copies of every outcome are ten times the rows and no more evidence."""
    once = [Outcome("a", "b", float(k % 4 > 0), k) for k in range(40)]
    copies = [Outcome(o.first, o.second, o.share, (o.cluster, i)) for o in once for i in range(10)]
    clustered = [Outcome(o.first, o.second, o.share, o.cluster) for o in once for _ in range(10)]
    widths = []
    for outcomes in (once, copies, clustered):
        found = bradley_terry(outcomes, ["a", "b"], bootstrap=300)["a"]
        assert found is not None and found.low is not None and found.high is not None
        assert found.value == pytest.approx(math.log(3) / 2, abs=0.02)  # three of four won; half of the log odds
        widths.append(found.high - found.low)
    assert widths[2] == pytest.approx(widths[0], rel=0.1) and widths[1] < 0.5 * widths[0]


def test_bradley_terry_says_what_is_not_bounded() -> None:
    swept = [Outcome("a", "b", 1, k) for k in range(20)]
    mixed = [Outcome("c", "d", float(k % 3 > 0), 100 + k) for k in range(30)]
    mixed += [Outcome("d", "e", float(k % 2), 200 + k) for k in range(30)]
    found = bradley_terry(swept + mixed, list("abcdef"), bootstrap=200)
    a, b, c, d = (found[item] for item in "abcd")
    assert a and b and c and d and found["f"] is None
    assert a.value > 0 > b.value and math.isfinite(a.value) and (a.low, a.high, b.low, b.high) == (None,) * 4
    assert c.low is not None and c.high is not None and c.low < c.value < c.high and c.value > d.value
    # Ties throughout: equal, and without any spread to judge by.
    tied = bradley_terry([Outcome("a", "b", 0.5, k) for k in range(20)], ["a", "b"], bootstrap=50)["a"]
    assert tied and tied.value == pytest.approx(0, abs=1e-6) and tied.low is None
    assert bradley_terry([], ["a", "b"]) == {"a": None, "b": None}


def test_bradley_terry_rejects() -> None:
    for outcomes, items in (
        ([], ["a"]),
        ([], ["a", "a"]),
        ([Outcome("a", "x", 1, 0)], ["a", "b"]),
        ([Outcome("a", "a", 1, 0)], ["a", "b"]),
        ([Outcome("a", "b", 1.5, 0)], ["a", "b"]),
    ):
        with pytest.raises(ValueError):
            bradley_terry(outcomes, items)
    with pytest.raises(ValueError, match="regularisation"):
        bradley_terry([Outcome("a", "b", 1, 0)], ["a", "b"], regularisation=0)


def test_bradley_terry_is_fast_and_repeatable() -> None:
    truth = dict(zip("abcdefghijkl", np.linspace(-2, 2, 12).tolist(), strict=True))
    outcomes = _tournament(np.random.default_rng(15), truth, 100)
    start = time.process_time()
    found = bradley_terry(outcomes, list(truth))
    assert time.process_time() - start < 10
    assert bradley_terry(outcomes, list(truth), bootstrap=50) == bradley_terry(outcomes, list(truth), bootstrap=50)
    assert list(found) == list(truth)


# Agreement and reliability


def _table(both: int, first: int, second: int, neither: int) -> tuple[list[str], list[str]]:
    return (
        ["yes"] * (both + first) + ["no"] * (second + neither),
        ["yes"] * both + ["no"] * first + ["yes"] * second + ["no"] * neither,
    )


def test_agreement_by_hand() -> None:
    # 35 of 50 agree; chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5. Gwet: q = 0.55, chance 2 * 0.55 * 0.45 = 0.495.
    a, b = _table(20, 5, 10, 15)
    assert cohen_kappa(a, b) == pytest.approx(0.4)
    assert gwet_ac1(a, b) == pytest.approx((0.7 - 0.495) / (1 - 0.495))
    # Three categories: agreed 4/6; kappa's chance 12/36; AC1's q are 4/12, 5/12, 3/12, its chance (sum q (1 - q)) / 2.
    a, b = list("aabbcc"), list("aabbba")
    kappa, ac1 = cohen_kappa(a, b), gwet_ac1(a, b)
    assert kappa == pytest.approx((4 / 6 - (2 * 3 + 2 * 3 + 0) / 36) / (1 - 12 / 36))
    chance = (5 / 12 * 7 / 12 + 5 / 12 * 7 / 12 + 2 / 12 * 10 / 12) / 2
    assert ac1 == pytest.approx((4 / 6 - chance) / (1 - chance))


def test_prevalence_paradox() -> None:
    """Raters who agree on 118 of 125 cases, nearly all positive: kappa calls it chance, AC1 does not (Gwet 2008)."""
    a, b = _table(118, 5, 2, 0)
    kappa, ac1 = cohen_kappa(a, b), gwet_ac1(a, b)
    assert kappa is not None and kappa < 0 and ac1 == pytest.approx(0.94, abs=0.005)


def test_agreement_is_none_without_categories() -> None:
    assert cohen_kappa([], []) is None and gwet_ac1([], []) is None
    assert cohen_kappa([1, 1], [1, 1]) is None and gwet_ac1([1, 1], [1, 1]) is None
    assert cohen_kappa([1, 1], [0, 0]) == 0 and cohen_kappa([0, 1], [0, 1]) == 1


def test_icc_published_and_planted() -> None:
    # Shrout & Fleiss 1979, tables 2 and 4: six targets, four judges.
    published = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    assert icc(published) == pytest.approx(0.62, abs=0.005)
    # Subjects 1, raters 0.3, noise 0.7, five raters: 1 / (1 + (0.3 + 0.7) / 5).
    random, found = np.random.default_rng(16), []
    for _ in range(300):
        subjects, raters = random.normal(0, 1, (100, 1)), random.normal(0, math.sqrt(0.3), (1, 5))
        found.append(icc((subjects + raters + random.normal(0, math.sqrt(0.7), (100, 5))).tolist()))
    assert np.mean([x for x in found if x is not None]) == pytest.approx(1 / 1.2, abs=0.02)
    noise = icc(random.normal(0, 1, (500, 5)).tolist())
    assert noise is not None and abs(noise) < 0.2
    assert icc([[1, 2, 3]]) is None and icc([[1], [2]]) is None and icc([]) is None and icc([[1, 1], [1, 1]]) is None
    with pytest.raises(ValueError):
        icc([[1, 2], [1, math.nan]])


def test_correlation_covers() -> None:
    random, runs, r = np.random.default_rng(17), 800, 0.6
    # For normal data the rank correlation is 6/pi asin(r/2).
    ranks = 6 / math.pi * math.asin(r / 2)
    linear = ordinal = 0
    for _ in range(runs):
        a = random.normal(0, 1, 30)
        b = r * a + math.sqrt(1 - r * r) * random.normal(0, 1, 30)
        linear += _covers(pearson(a.tolist(), b.tolist()), r)
        ordinal += _covers(spearman(a.tolist(), b.tolist()), ranks)
    assert 0.93 <= linear / runs <= 0.97 and 0.93 <= ordinal / runs <= 0.975


def test_correlation_edges() -> None:
    assert pearson([1, 2, 3], [1, 2, 3]) is None and spearman([1, 1, 1, 1], [1, 2, 3, 4]) is None
    found = pearson([1, 2, 3, 4, 5], [2, 1, 4, 3, 5])
    # r = 0.8; atanh(0.8) = ln 3; half width 1.96 / sqrt(2).
    half = norm.ppf(0.975) / math.sqrt(2)
    assert found is not None and found.value == pytest.approx(0.8) and found.n == 5
    assert (found.low, found.high) == pytest.approx((math.tanh(math.log(3) - half), math.tanh(math.log(3) + half)))
    # Five equal ranks are no proof of a perfect relation.
    equal = spearman([1, 2, 3, 4, 5], [1, 4, 9, 16, 25])
    assert equal is not None and equal.value == pytest.approx(1) == equal.high and equal.low < 0.6
    opposite = spearman([1, 2, 3, 4, 5], [9, 7, 5, 3, 1])
    assert opposite is not None and opposite.value == pytest.approx(-1) == opposite.low and opposite.high > -0.6
    with pytest.raises(ValueError):
        pearson([1, 2, 3, 4], [1, 2, 3, 4, 5])


def test_import_is_light() -> None:
    """The command line imports this module; SciPy and its like are loaded when a number is asked for."""
    code = "import charforge.statistics, sys; print([m for m in ('scipy', 'pandas') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_a_share_of_few_holds_at_the_ends_and_meets_wilson_at_many() -> None:
    assert share(0.0, 20)[0] == 0.0 and 0.15 < share(0.0, 20)[1] < 0.17
    assert share(1.0, 20)[1] == 1.0 and share(0.5, 0) == (0.0, 1.0)
    few, many = share(0.3, 299.9), wilson(0.3 * 299.9, 299.9)
    assert few == pytest.approx(many, abs=2e-3)
    covered = 0
    generator = np.random.default_rng(5)
    for _ in range(4000):
        p, n = generator.uniform(0.02, 0.98), int(generator.integers(8, 120))
        low, high = share(generator.binomial(n, p) / n, n)
        covered += low <= p <= high
    assert 0.94 <= covered / 4000 <= 0.965, covered / 4000
