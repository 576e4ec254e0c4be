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
from charforge.markers import parse_marker, question_count, sentences, word_count

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
class Habit:
    """Something countable in how somebody writes, beside how others do it.

    `share` and `others` are rates over passages (0 to 1), or means; `quotes` show it.
    """

    title: str
    prose: str
    markers: tuple[str, ...]
    share: float
    others: float | None
    quotes: tuple[tuple[str, Passage], ...]


@dataclass(frozen=True)
class Statistics:
    """Counts over passages."""

    passages: int
    words: int
    sentence_mean: float
    """Words per sentence."""
    sentence_spread: float
    short: float
    """Share of passages with a sentence of at most four words."""
    questions: float
    """Share of passages that ask something."""
    exclamations: float
    first_person: float
    second_person: float
    semicolons: float
    """Per 100 words."""
    numbers: float
    """Share of passages with a number, in digits or words."""
    vocabulary: float
    """Different words per 100 running words, over windows of 100."""
    phrases: tuple[tuple[str, int], ...]
    """Phrases of two to four words that come back, with how many passages hold them."""

    def as_dict(self) -> dict[str, object]:
        return {
            key: (list(value) if isinstance(value, tuple) else value)
            for key, value in self.__dict__.items()
            if not key.startswith("_")
        }


_NUMBER = re.compile(
    r"\b(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|hundred|half)\b",
    re.IGNORECASE,
)
_COMMON = frozenset(
    """
    a about after all am an and any are as at be been but by can could did do does down for from good had has have he her
    him his how i if in into is it its like man made make may me more most much must my no nor not now of off on one only
    or other our out over own said same say see shall she should so some such than that the their them then there these
    they thing things this those time to too two up upon very was we were what when where which who will with would you
    your
    """.split()  # noqa: SIM905
)


def measure(passages: Sequence[Passage]) -> Statistics:
    """Count how somebody writes."""
    texts = [passage.text for passage in passages]
    lengths = [word_count(sentence) for text in texts for sentence in sentences(text)]
    words = sum(word_count(text) for text in texts)
    first, second = parse_marker("speaks as I"), parse_marker("speaks to you")

    def share(test: Callable[[str], bool]) -> float:
        return round(sum(test(text) for text in texts) / len(texts), 4)

    return Statistics(
        passages=len(texts),
        words=words,
        sentence_mean=round(statistics.fmean(lengths), 2),
        sentence_spread=round(statistics.pstdev(lengths), 2),
        short=share(lambda text: any(word_count(s) <= 4 for s in sentences(text))),
        questions=share(lambda text: question_count(text) > 0),
        exclamations=share(lambda text: "!" in text),
        first_person=share(first.shows),
        second_person=share(second.shows),
        semicolons=round(100 * sum(text.count(";") for text in texts) / max(words, 1), 3),
        numbers=share(lambda text: bool(_NUMBER.search(text))),
        vocabulary=round(_vocabulary(texts), 2),
        phrases=tuple(_phrases(texts)),
    )


def _vocabulary(texts: Sequence[str]) -> float:
    running = re.findall(r"[\w']+", " ".join(texts).lower())
    windows = [running[i : i + 100] for i in range(0, max(len(running) - 99, 1), 100)]
    return statistics.fmean(100 * len(set(window)) / max(len(window), 1) for window in windows)


def _phrases(texts: Sequence[str], most: int = 12) -> list[tuple[str, int]]:
    """Phrases that hold a word that is not a common one and come back in several passages, the longest first."""
    found: Counter[str] = Counter()
    for text in texts:
        words = re.findall(r"[\w']+", text.lower())
        seen = {
            " ".join(words[i : i + n])
            for n in (2, 3, 4)
            for i in range(len(words) - n + 1)
            if set(words[i : i + n]) - _COMMON
        }
        found.update(seen)
    least = max(3, len(texts) // 12)
    kept = [(phrase, count) for phrase, count in found.items() if count >= least]
    kept.sort(key=lambda item: (-item[1] * len(item[0].split()), item[0]))
    result: list[tuple[str, int]] = []
    for phrase, count in kept:
        if not any(phrase in longer for longer, _ in result):
            result.append((phrase, count))
    return result[:most]


def habits(own: Sequence[Passage], others: Sequence[Passage] | None = None) -> list[Habit]:
    """What stands out in how somebody writes, each with quotations: against others where some are given, or at all."""
    mine = measure(own)
    theirs = measure(others) if others else None
    result: list[Habit] = []

    def add(title: str, prose: str, markers: tuple[str, ...], name: str, quotes: list[tuple[str, Passage]]) -> None:
        if quotes:
            rate = float(getattr(mine, name))
            base = float(getattr(theirs, name)) if theirs else None
            result.append(Habit(title, prose, markers, rate, base, tuple(quotes[:3])))

    def stands_out(name: str, low: float) -> bool:
        value = float(getattr(mine, name))
        return value >= low and (theirs is None or value >= 1.3 * float(getattr(theirs, name)))

    def quote(test: Callable[[str], bool], longest: int = 30) -> list[tuple[str, Passage]]:
        hits = [
            (sentence, passage)
            for passage in own
            for sentence in sentences(passage.text)
            if word_count(sentence) <= longest and '"' not in sentence and test(sentence)
        ]
        seen: set[str] = set()
        return [h for h in hits if not (h[1].id in seen or seen.add(h[1].id))]  # type: ignore[func-returns-value]

    longest = round(mine.sentence_mean + mine.sentence_spread / 2)
    if theirs is None or mine.sentence_mean < theirs.sentence_mean:
        add(
            "Short sentences",
            f"I write in sentences of about {mine.sentence_mean:.0f} words, because one thing at a time is enough.",
            (f"sentences of at most {longest} words",),
            "sentence_mean",
            quote(lambda s: word_count(s) <= mine.sentence_mean),
        )
    else:
        floor = max(2, round(mine.sentence_mean - mine.sentence_spread / 2))
        add(
            "Long sentences",
            f"I write in sentences of about {mine.sentence_mean:.0f} words, because a thought has its own length.",
            (f"sentences of at least {floor} words",),
            "sentence_mean",
            quote(lambda s: word_count(s) >= mine.sentence_mean, 60),
        )
    if stands_out("short", 0.4):
        add(
            "One very short sentence",
            f"I set a very short sentence among the longer ones; it is in {mine.short:.0%} of what I wrote.",
            (r"matches /(?:^|[.!?]\s+)(?:[\w',;-]+\s+){0,3}[\w'-]+[.!?](?:\s|$)/",),
            "short",
            quote(lambda s: word_count(s) <= 4),
        )
    if stands_out("numbers", 0.5):
        add(
            "Counts and measures",
            f"I count things and say how many; a number is in {mine.numbers:.0%} of what I wrote.",
            (r"matches /\b(one|two|three|four|five|six|seven|eight|nine|ten|\d+|dozen|half|hundred)\b/",),
            "numbers",
            quote(lambda s: bool(_NUMBER.search(s))),
        )
    if stands_out("questions", 0.3):
        add(
            "Asks",
            f"I ask; there is a question in {mine.questions:.0%} of what I wrote.",
            (r"matches /\?/",),
            "questions",
            quote(lambda s: s.endswith("?")),
        )
    if stands_out("second_person", 0.5):
        add(
            "Speaks to the reader",
            f"I speak to the one who reads; 'you' is in {mine.second_person:.0%} of what I wrote.",
            ("speaks to you",),
            "second_person",
            quote(parse_marker("speaks to you").shows),
        )
    if stands_out("first_person", 0.5):
        add(
            "Speaks in the first person",
            f"I say I, and answer for it; it is in {mine.first_person:.0%} of what I wrote.",
            ("speaks as I",),
            "first_person",
            quote(parse_marker("speaks as I").shows),
        )
    if mine.exclamations <= 0.02:
        add(
            "Never raises its voice",
            "I use no exclamation marks, because a thing that is so is so without them.",
            ("no exclamation marks",),
            "exclamations",
            quote(lambda s: True),
        )
    for phrase, _ in mine.phrases[:1]:
        if theirs is None or phrase not in {other for other, _ in theirs.phrases}:
            add(
                f"Says {phrase!r}".replace("'", ""),
                f'I come back to the words "{phrase}".',
                (),
                "vocabulary",
                quote(lambda s, phrase=phrase: phrase in s.lower()),  # type: ignore[misc]
            )
    return result


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
        lines.append(f"- What did you notice today? ({title})")
    lines.append("")
    if markers:
        lines += ["#### Markers", "", *(f"- {marker}" for marker in markers), ""]
    return lines


def _topic(passage: Passage) -> str:
    """The word that a passage says most often, of those that are not common; the longest of several."""
    counts = Counter(w for w in re.findall(r"[a-z]{4,}", passage.text.lower()) if w not in _COMMON)
    return max(counts, key=lambda word: (counts[word], len(word), word)) if counts else passage.source


def _ask(passage: Passage) -> str:
    where = passage.source.rpartition(", ")[2]
    return f"What do you say about {_topic(passage)}, as in {where}?" if where else f"What of {_topic(passage)}?"
