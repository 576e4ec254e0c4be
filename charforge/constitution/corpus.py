"""A first constitution from everything that a person wrote (the experiment that asks whether a real person's character,
being coherent, makes a better one than an invented one).

A corpus is a folder of Markdown or text files, or one such file. It is cut into passages; a part of them, chosen by the
hash of their own text, is held out for the judge that is measured on them. How the person writes is counted, without a
model. Every claim of the draft cites the passages that it rests on.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from charforge.constitution.model import digest
from charforge.errors import UserError
from charforge.markers import parse_marker, sentences, word_count

_SUFFIXES = (".md", ".txt")
_SHORTEST, _LONGEST = 30, 220
HELD_OUT = 0.3


@dataclass(frozen=True)
class Passage:
    """A stretch of writing: a few paragraphs at most. `source` says where it stands, for people."""

    text: str
    source: str

    @cached_property
    def id(self) -> str:
        return digest(self.text)[:12]

    @property
    def held_out(self) -> bool:
        """Whether it is kept from drafts and contexts; the text alone decides."""
        return int(digest("passage " + self.text)[:8], 16) / 16**8 < HELD_OUT


def read(path: Path) -> tuple[Passage, ...]:
    """The passages of a corpus, in the order of the file names.

    Headings cut passages and name them; short paragraphs are joined to the next, long ones are cut at sentences.

    Raises:
        UserError: if there is nothing to read.
    """
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES)
    if not path.exists():
        raise UserError("no such file or folder", place=str(path))
    if not files:
        raise UserError("no .md or .txt file in it", place=str(path))
    passages: list[Passage] = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"can not be read as UTF-8 text: {error}", place=str(file)) from error
        passages += _cut(text, file.stem)
    unique = tuple({passage.text: passage for passage in passages}.values())
    if len(unique) < 10:
        raise UserError(
            f"{len(unique)} passages of at least {_SHORTEST} words are too few to know somebody by",
            place=str(path),
            hint="ten are the least, a hundred are better",
        )
    return unique


def _cut(text: str, stem: str) -> list[Passage]:
    passages: list[Passage] = []
    top, heading, gathered = stem, "", ""

    def flush() -> None:
        nonlocal gathered
        words = gathered.split()
        if len(words) >= _SHORTEST:
            source = ", ".join(filter(None, [top, heading]))
            for part in _pieces(gathered):
                passages.append(Passage(part, source))
        gathered = ""

    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n")):
        stripped = block.strip()
        if match := re.match(r"(#{1,6})\s+(.*)", stripped):
            flush()
            if len(match[1]) == 1:
                top, heading = match[2].strip(), ""
            else:
                heading = match[2].strip()
            stripped = stripped.partition("\n")[2].strip()
        if not stripped or stripped.startswith(("<!--", "---", "```")):
            continue
        flat = " ".join(re.sub(r"^>\s?", "", stripped, flags=re.MULTILINE).split())
        if word_count(gathered) + word_count(flat) > _LONGEST:
            flush()
        gathered = f"{gathered} {flat}".strip()
        if not heading and word_count(gathered) >= 2 * _SHORTEST:
            flush()
    flush()
    return passages


def _pieces(text: str) -> list[str]:
    """A long text in pieces of whole sentences."""
    if word_count(text) <= _LONGEST:
        return [text]
    pieces, current = [], ""
    for sentence in sentences(text):
        if current and word_count(current) + word_count(sentence) > _LONGEST:
            pieces.append(current)
            current = ""
        current = f"{current} {sentence}".strip()
    return [*pieces, current]


# --- how somebody writes --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Feature:
    """Something countable in a passage, with what to say where it stands out. `%s` in the prose is the mean."""

    name: str
    unit: str
    value: Callable[[str], float]
    in_sentence: Callable[[str], bool]
    """Whether a sentence shows it: what is quoted as evidence."""
    high: tuple[str, str, str | None] | None
    """Title, prose and marker where it is above what others do; None where that says nothing."""
    low: tuple[str, str, str | None] | None


@dataclass(frozen=True)
class Habit:
    """A feature that stands out. `own` and `others` are means over passages in the feature's unit; `t` is Welch's
    statistic for their difference (None without others); `quotes` show it."""

    title: str
    prose: str
    markers: tuple[str, ...]
    feature: str
    unit: str
    own: float
    others: float | None
    t: float | None
    quotes: tuple[tuple[str, Passage], ...]


_NUMBER = re.compile(
    r"\b(?:\d+|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fifteen|twenty|thirty|forty|fifty|sixty"
    r"|hundred|thousand|dozen|half|quarter)\b",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(?:perhaps|maybe|possibly|I suppose|I think|I believe|I fancy|it seems|might|may be)\b", re.IGNORECASE
)
_FIRST = re.compile(r"\bI\b|\b(?i:my|me|mine|myself)\b")
_SECOND = re.compile(r"\b(?:you|your|yours|yourself)\b", re.IGNORECASE)


def _per_hundred(pattern: re.Pattern[str]) -> Callable[[str], float]:
    return lambda text: 100 * len(pattern.findall(text)) / max(word_count(text), 1)


def _has(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: bool(pattern.search(text))


def _sentence_length(text: str) -> float:
    return word_count(text) / max(len(sentences(text)), 1)


def _short_share(text: str) -> float:
    parts = sentences(text)
    return 100 * sum(word_count(part) <= 4 for part in parts) / max(len(parts), 1)


FEATURES = (
    Feature(
        "sentence length",
        "words",
        _sentence_length,
        lambda s: word_count(s) >= 8,
        ("Long sentences", "I write in long sentences, about %s words each, because a thought has its own length.", "longer"),
        ("Short sentences", "I write in short sentences, about %s words each, because one thing at a time is enough.", "shorter"),
    ),
    Feature(
        "very short sentences",
        "of 100 sentences",
        _short_share,
        lambda s: word_count(s) <= 4,
        (
            "One very short sentence",
            "I set a very short sentence among the longer ones, because that is where the weight goes.",
            r"matches /(?:^|[.!?;]\s+)(?:[\w',-]+\s+){0,3}[\w'-]+[.!?](?:\s|$)/",
        ),
        None,
    ),
    Feature(
        "numbers",
        "per 100 words",
        _per_hundred(_NUMBER),
        _has(_NUMBER),
        (
            "Counts and measures",
            "I count things and say how many, because a number can be checked.",
            r"matches /\b(one|two|three|four|five|six|seven|eight|nine|ten|dozen|half|hundred|\d+)\b/",
        ),
        None,
    ),
    Feature(
        "questions",
        "per 100 words",
        _per_hundred(re.compile(r"\?")),
        _has(re.compile(r"\?$")),
        ("Asks", "I ask, because a question opens what a statement shuts.", r"matches /\?/"),
        ("Seldom asks", "I seldom ask; I say what I have seen, and let it be answered.", "no questions"),
    ),
    Feature(
        "exclamations",
        "per 100 words",
        _per_hundred(re.compile(r"!")),
        _has(re.compile(r"!$")),
        ("Raises its voice", "I let my voice rise, because some things deserve it.", r"matches /!/"),
        ("Never raises its voice", "I use no exclamation marks, because a thing that is so is so without them.",
         "no exclamation marks"),
    ),
    Feature(
        "first person",
        "per 100 words",
        _per_hundred(_FIRST),
        _has(_FIRST),
        ("Answers for itself", "I say I, and answer for what I say.", "speaks as I"),
        ("Keeps itself out of it", "I keep myself out of what I say, because the thing matters more than I do.", None),
    ),
    Feature(
        "second person",
        "per 100 words",
        _per_hundred(_SECOND),
        _has(_SECOND),
        ("Speaks to the reader", "I speak to the one who reads, because a page is half of a talk.", "speaks to you"),
        ("Speaks to nobody in particular", "I speak of things more than to people.", None),
    ),
    Feature(
        "semicolons",
        "per 100 words",
        _per_hundred(re.compile(";")),
        _has(re.compile(";")),
        ("Joins with semicolons", "I let two thoughts stand side by side with a semicolon between them.", None),
        None,
    ),
    Feature(
        "hedges",
        "per 100 words",
        _per_hundred(_HEDGE),
        _has(_HEDGE),
        ("Says how sure it is", "I say perhaps where I mean perhaps, because being sure is worth something.", None),
        ("Does not hedge", "I say a thing or I leave it; I seldom say perhaps.", None),
    ),
)  # fmt: skip

_COMMON = frozenset(
    """
    a about after again all also am an and any are as asked at be because been before being but by came can come could did
    do does done down each even ever every for from gave give given go good great had has have he her here him his how i if
    in into is it its just keep knew know known last like little long made make man many may me might more most much must
    my myself never no nor not nothing now of off old on once one only or other our out over own put said same saw say see
    shall she should since so some such take taken than that the their them then there these they thing things think this
    those though three through time to told too two under until up upon very was way we well went were what when where
    whether which while who whom will with without would year years yet you your
    """.split()  # noqa: SIM905
)
# A difference of means this many standard errors away from zero stands out (nine features are looked at).
_STANDS_OUT = 3.0


def measure(passages: Sequence[Passage]) -> dict[str, float]:
    """The mean of each feature over the passages, rounded, with how many passages and words there are."""
    result: dict[str, float] = {"passages": len(passages), "words": sum(word_count(p.text) for p in passages)}
    for feature in FEATURES:
        result[f"{feature.name} ({feature.unit})"] = round(statistics.fmean(feature.value(p.text) for p in passages), 3)
    return result


def phrases(passages: Sequence[Passage], most: int = 12) -> list[tuple[str, int]]:
    """Phrases of two to four words that come back in several passages and hold a word that is not a common one, with the
    number of passages."""
    found: Counter[str] = Counter()
    for passage in passages:
        words = re.findall(r"[\w']+", passage.text.lower())
        found.update(
            {
                " ".join(words[i : i + n])
                for n in (2, 3, 4)
                for i in range(len(words) - n + 1)
                if any(word not in _COMMON and len(word) > 3 for word in words[i : i + n])
            }
        )
    least = max(3, len(passages) // 12)
    kept = [(phrase, count) for phrase, count in found.items() if count >= least]
    kept.sort(key=lambda item: (-item[1] * len(item[0].split()), item[0]))
    result: list[tuple[str, int]] = []
    for phrase, count in kept:
        if not any(phrase in longer for longer, _ in result):
            result.append((phrase, count))
    return result[:most]


def habits(own: Sequence[Passage], others: Sequence[Passage]) -> list[Habit]:
    """What stands out in how somebody writes beside how others do, the clearest first: features whose means differ by
    more than three standard errors (Welch's t), each with quotations."""
    from scipy.stats import ttest_ind

    found: list[Habit] = []
    for feature in FEATURES:
        mine = [feature.value(passage.text) for passage in own]
        theirs = [feature.value(passage.text) for passage in others]
        if max([*mine, *theirs]) == min([*mine, *theirs]):
            continue
        t = float(ttest_ind(mine, theirs, equal_var=False).statistic)
        said = feature.high if t > 0 else feature.low
        if abs(t) < _STANDS_OUT or said is None:
            continue
        title, prose, marker = said
        mean = statistics.fmean(mine)
        if marker in ("longer", "shorter"):
            # The form that nine of ten passages keep to.
            ordered = sorted(mine)
            bound = ordered[len(ordered) // 10] if marker == "longer" else ordered[-1 - len(ordered) // 10]
            side = "least" if marker == "longer" else "most"
            marker = f"sentences of at {side} {round(bound)} words"
        shows = feature.in_sentence if t > 0 or feature.low is None else (lambda s, f=feature: not f.in_sentence(s))
        if feature.name == "sentence length" and t < 0:
            shows = _is_short
        quotes = tuple(_quotes(own, shows))
        if quotes:
            prose = prose % f"{mean:.0f}" if "%s" in prose else prose
            found.append(
                Habit(title, prose, (marker,) if marker else (), feature.name, feature.unit, round(mean, 3),
                      round(statistics.fmean(theirs), 3), round(t, 2), quotes)
            )  # fmt: skip
    found.sort(key=lambda habit: -abs(habit.t or 0))
    known = {phrase for phrase, _ in phrases(others)}
    for phrase, count in phrases(own)[:1]:
        if phrase not in known:
            title = "Comes back to " + re.sub(r"\bi\b", "I", phrase)
            quotes = tuple(_quotes(own, lambda s, phrase=phrase: phrase in s.lower()))  # type: ignore[misc]
            if quotes:
                prose = f'I come back to the words "{phrase}", because they carry what I mean.'
                share = round(count / len(own), 3)
                found.append(
                    Habit(title, prose, (), f"the phrase {phrase!r}", "of passages", share, None, None, quotes)
                )
    return found


def _is_short(sentence: str) -> bool:
    return word_count(sentence) <= 12


def _quotes(own: Sequence[Passage], shows: Callable[[str], bool], most: int = 3) -> list[tuple[str, Passage]]:
    """Sentences that show something, from different passages spread over the corpus; short enough to quote."""
    hits = []
    for passage in own:
        for sentence in sentences(passage.text):
            if 2 <= word_count(sentence) <= 40 and '"' not in sentence and shows(sentence):
                hits.append((sentence, passage))
                break
    step = max(1, len(hits) // most)
    return hits[::step][:most]


# --- the draft ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """A trait that a model found in a passage, in the person's first person, with the words that it rests on."""

    title: str
    prose: str
    quote: str
    passage: Passage


def draft(
    name: str,
    corpus: str,
    passages: Sequence[Passage],
    found: Sequence[Habit],
    claims: Sequence[Claim] = (),
) -> str:
    """The text of a first constitution.

    Args:
        name: the character's name.
        corpus: the path of the corpus as the constitution shall name it.
        passages: those that are not held out.
        found: habits of writing.
        claims: what a model proposed; each is kept only if its quotation is in its passage, word for word.
    """
    kept = [claim for claim in claims if claim.quote in claim.passage.text]
    lines = [
        "---",
        f"name: {name}",
        "version: 0.1.0",
        f"summary: A character drawn from the writings of {name}.",
        "language: en",
        f"self_description: I am an AI, a character that people drew from the writings of {name}; I am not {name}.",
        f"corpus: {corpus}",
        "---",
        "",
        f"# {name}",
        "",
        f"<!-- Drafted from {len(passages)} passages. Every trait cites what it rests on. Read, doubt, rewrite: "
        "a count is not a character. -->",
        "",
        "## Identity",
        "",
        f"I am an AI, and I speak in the manner of {name}, whose writings people read closely to make me. I was made on "
        f"purpose, so that this way of seeing could be asked things. I keep to what those pages show, and where they are "
        "silent I say so.",
        "",
        "<!-- Who was this? What did they care about most? What would they never do? Say it in 100 words, in the first "
        "person. -->",
        "",
        "## Voice",
        "",
    ]
    # Every passage is used once: as a reply in an example, or for the topic that a probe asks about.
    pool = list(passages)
    for habit in found:
        lines += _trait(habit.title, habit.prose, habit.quotes, pool, name, habit.markers)
    if kept:
        lines += ["## Values", ""]
        for claim in kept:
            lines += _trait(claim.title, claim.prose, ((claim.quote, claim.passage),), pool, name)
    lines += [
        "<!-- Still to write: Boundaries (what would they never do, and how did they say no?), Tensions, Self-knowledge. "
        "docs/writing-a-constitution.md says how. -->",
    ]
    return "\n".join(lines).rstrip() + "\n"


def _trait(
    title: str,
    prose: str,
    quotes: Sequence[tuple[str, Passage]],
    pool: list[Passage],
    name: str,
    markers: Sequence[str] = (),
) -> list[str]:
    evidence = "; ".join(f'"{" ".join(text.split())}" ({passage.source})' for text, passage in quotes)
    lines = [f"### {title}", "", prose, "", f"*Evidence: {evidence}.*", ""]
    checks = [parse_marker(marker) for marker in markers]
    fitting = [p for p in pool if word_count(p.text) <= 130 and all(check.shows(p.text) for check in checks)][:3]
    asked: set[str] = set()
    if fitting:
        lines += [
            "#### Examples",
            "",
            "<!-- The replies are the person's own words. Write what somebody might have asked, and a 'Not this'. -->",
            "",
        ]
        for passage in fitting:
            pool.remove(passage)
            asked.add(_topic(passage))
            lines += [f"> **User:** {_ask(passage)}", ">", f"> **{name}:** {' '.join(passage.text.split())}", ""]
    lines += ["#### Probes", ""]
    for passage in list(pool):
        if len(asked) >= len(fitting) + 4:
            break
        if _topic(passage) not in asked:
            pool.remove(passage)
            asked.add(_topic(passage))
            lines.append(f"- {_ask(passage)}")
    if lines[-1] == "":
        lines.append(f"- {title}: how so?")
    lines.append("")
    if markers:
        lines += ["#### Markers", "", *(f"- {marker}" for marker in markers), ""]
    return lines


def _topic(passage: Passage) -> str:
    """The word that a passage says most often, of those that are not common; the longest of several."""
    counts = Counter(w for w in re.findall(r"[a-z]{4,}", passage.text.lower()) if w not in _COMMON)
    return max(counts, key=lambda word: (counts[word], len(word), word)) if counts else "today"


def _ask(passage: Passage) -> str:
    return f"Tell me something about {_topic(passage)}."
