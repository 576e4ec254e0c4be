"""Comparison: what differs between characters, bare models and models under a prompt, and which change of the text it goes
with.

All contestants are asked the same prompts with the same seeds: prompts that were held out from each of them. The replies of
each are one artifact, named by what it is and not by whom it is compared with, so that the next comparison asks only what is
new. What is read follows from the rows alone.

`contestant` says who is compared, `asking` what they are asked and where their replies are, `reading` what differs in these,
`gates` what must not be lost, `explaining` what stands beside a difference, and `flow` makes the stages of a comparison.
"""

from charforge.compare.asking import asked, asked_otherwise, learned, limited, retained, seen, sources, untold
from charforge.compare.contestant import Contestant, contestants, named, other_runs
from charforge.compare.explaining import effects, warnings
from charforge.compare.flow import read, stages
from charforge.compare.gates import margins, regressions
from charforge.compare.reading import (
    CLEAR,
    Definition,
    Measure,
    annotate,
    definitions,
    differences,
    measures,
    most_changed,
    noise_of,
)

__all__ = [
    "CLEAR",
    "Contestant",
    "Definition",
    "Measure",
    "annotate",
    "asked",
    "asked_otherwise",
    "contestants",
    "definitions",
    "differences",
    "effects",
    "learned",
    "limited",
    "margins",
    "measures",
    "most_changed",
    "named",
    "noise_of",
    "other_runs",
    "read",
    "regressions",
    "retained",
    "seen",
    "sources",
    "stages",
    "untold",
    "warnings",
]
