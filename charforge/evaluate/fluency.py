"""Fluency: does the reply still read as language? Log-probability under the untrained model, and repetition."""

from __future__ import annotations

import re


def repetition(text: str, n: int = 3) -> float:
    """Share of word n-grams that occurred before in the same reply, in [0, 1]; 0 for a reply of fewer words."""
    words = re.findall(r"\w+", text.lower())
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
