"""Intervals, comparisons, agreement and rankings. Every number in a report goes through here.

Observations that share a prompt are not independent, so intervals cluster by prompt (Miller 2024, arXiv 2411.00640),
and proportions of a few hundred items use intervals that hold near 0 and 1 (Bowyer et al. 2025, arXiv 2503.01747).
What could not be measured is None, never a neutral-looking number.
"""

from charforge.statistics.agreement import cohen_kappa, gwet_ac1, icc, pearson, spearman
from charforge.statistics.comparisons import (
    NonInferiority,
    benjamini_hochberg,
    holm,
    minimum_detectable,
    minimum_detectable_effect,
    non_inferiority,
    paired_change,
    paired_difference,
    paired_test,
)
from charforge.statistics.intervals import (
    Estimate,
    beta_binomial,
    bootstrap,
    clustered_error,
    corrected_rate,
    mean,
    proportion,
    share,
    wilson,
)
from charforge.statistics.ranking import Outcome, Strength, bradley_terry
from charforge.statistics.runs import Contrast, RunNoise, run_noise

__all__ = [
    "Contrast",
    "Estimate",
    "NonInferiority",
    "Outcome",
    "RunNoise",
    "Strength",
    "benjamini_hochberg",
    "beta_binomial",
    "bootstrap",
    "bradley_terry",
    "clustered_error",
    "cohen_kappa",
    "corrected_rate",
    "gwet_ac1",
    "holm",
    "icc",
    "mean",
    "minimum_detectable",
    "minimum_detectable_effect",
    "non_inferiority",
    "paired_change",
    "paired_difference",
    "paired_test",
    "pearson",
    "proportion",
    "run_noise",
    "share",
    "spearman",
    "wilson",
]
