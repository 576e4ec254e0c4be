"""Which language a text is in, by py3langid (Lui & Baldwin 2012, langid.py), with English recognised cheaply first."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from charforge.errors import UserError, did_you_mean

# Names that a writer would use, with the tags that the identifier returns.
NAMES = {
    "arabic": "ar",
    "chinese": "zh",
    "czech": "cs",
    "danish": "da",
    "dutch": "nl",
    "english": "en",
    "finnish": "fi",
    "french": "fr",
    "german": "de",
    "greek": "el",
    "hebrew": "he",
    "hindi": "hi",
    "hungarian": "hu",
    "italian": "it",
    "japanese": "ja",
    "korean": "ko",
    "latin": "la",
    "norwegian": "no",
    "polish": "pl",
    "portuguese": "pt",
    "romanian": "ro",
    "russian": "ru",
    "spanish": "es",
    "swedish": "sv",
    "turkish": "tr",
    "ukrainian": "uk",
    "vietnamese": "vi",
}
_ENGLISH = frozenset(
    """
    a about after all an and are as at be been but by can do does don't for from had has have he her his how i i'd if in
    is it it's its me my no not of on one or our she so than that the their them then there they this to up was we what
    when which who will with would you your
    """.split()  # noqa: SIM905
)


def tag(name: str) -> str:
    """The tag of a language's English name, or of a tag itself (``en-GB`` is ``en``).

    Raises:
        UserError: for a name that is not known.
    """
    lowered = name.strip().lower()
    if lowered in NAMES:
        return NAMES[lowered]
    if re.fullmatch(r"[a-z]{2,3}([-_][a-z0-9]+)*", lowered):
        return re.split(r"[-_]", lowered)[0]
    raise UserError(f"no language {name!r}{did_you_mean(lowered, NAMES)}")


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def identify(text: str) -> tuple[str, float]:
    """The likeliest language of a text as a tag, and its probability. A few words are a weak basis."""
    language, probability = _identifier().classify(text)
    return str(language), float(probability)


def looks_english(text: str) -> bool:
    """Whether at least a fifth of the words are common English function words: no model is needed to know."""
    words = re.findall(r"[a-z']+", text.lower().replace("’", "'"))
    return bool(words) and sum(word in _ENGLISH for word in words) / len(words) >= 0.2


def is_in(text: str, language: str) -> bool:
    """Whether a text is in this language (a tag): the identifier's first choice."""
    return (language == "en" and looks_english(text)) or identify(text)[0] == language
