"""How far two training runs of one recipe differ: chance that no number of prompts averages away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAST = 8
"""A contrast over fewer prompts says too little of runs: what its prompts vary is not known well enough to take it away."""


@dataclass(frozen=True)
class Contrast:
    """A measure in two runs of one recipe: the mean paired difference in spreads (standard deviations) of the differences
    between prompts, over `n` prompts."""

    effect: float
    n: int


@dataclass(frozen=True)
class RunNoise:
    """The variance between two runs, in squared spreads of the paired differences, the same for all measures."""

    variance: float
    df: float
    """Degrees of freedom with which it is known."""
    contrasts: int

    def p(self, effect: float, n: int, trained: float = 1.0) -> float:
        """Two-sided p of a difference of `effect` spreads over `n` prompts if the prompts and the runs were all there is.

        `trained` is the share of the two sides that were trained: 0.5 where one of them never was.
        """
        from scipy.special import stdtr

        return float(2 * stdtr(self._df(n, trained), -abs(effect) / self._error(n, trained)))

    def half_width(self, n: int, trained: float = 1.0) -> float:
        """Half of the 95% interval of a difference, in spreads."""
        from scipy.special import stdtrit

        return float(stdtrit(self._df(n, trained), 0.975)) * self._error(n, trained)

    def detectable(self, n: int, trained: float = 1.0) -> float:
        """The smallest true difference that would be seen with 80% power, in spreads."""
        from scipy.special import stdtrit

        df = self._df(n, trained)
        return float(stdtrit(df, 0.975) + stdtrit(df, 0.8)) * self._error(n, trained)

    def _error(self, n: int, trained: float) -> float:
        return math.sqrt(1 / n + self.variance * trained)

    def _df(self, n: int, trained: float) -> float:
        """Satterthwaite's (1946), for the sum of what prompts and what runs vary."""
        prompts, runs = 1 / n, self.variance * trained
        return float((prompts + runs) ** 2 / (prompts**2 / (n - 1) + runs**2 / self.df))


def run_noise(pairs: Sequence[Sequence[Contrast]]) -> RunNoise | None:
    """The noise between runs, from pairs of runs that should not differ: for each pair the contrasts of its measures.

    The variance of an effect of nothing is 1 / n for the prompts and tau^2 for the runs; tau^2 is found from the moments,
    weighted by n (DerSimonian & Laird 1986, for effects whose mean is known to be 0). The spread of an effect is itself
    estimated, so without any noise n effect^2 is (n - 1) / (n - 3) on average, as F(1, n - 1), and not 1; contrasts over fewer
    than `LEAST` prompts are left out. Degrees of freedom are half of Kish's (1965) effective number of contrasts under these
    weights: the measures of a pair are read in the same replies.
    None where no contrast is left.
    """
    kept = [[each for each in pair if each.n >= LEAST] for pair in pairs]
    found = [each for pair in kept for each in pair]
    if not found:
        return None
    moments = sum(each.n * each.effect**2 - (each.n - 1) / (each.n - 3) for each in found)
    variance = moments / sum(each.n for each in found)
    df = sum(sum(each.n for each in pair) ** 2 / sum(each.n**2 for each in pair) for pair in kept if pair)
    return RunNoise(max(0.0, variance), max(1.0, df / 2), len(found))
