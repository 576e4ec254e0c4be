"""What an evaluation asks a model, and how it is asked.

A suite says what is asked of each arm: replies to draw (`Probe`), conversations in which what the model said comes back to
it (`Talk`, `Encounter`), options to choose from (`Choice`) and text to weigh (`Text`). Whatever is asked becomes rows, each
with what was said word for word, so that a reader can see what a number is about.

A forced choice is put in every rotation of its options and read as probability, with the mass that the labels hold together;
below the floor of that mass the model did not answer, and there is no value.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from charforge.constitution import Constitution, Message, digest
from charforge.data import prompts
from charforge.engine import Drawing, Request, draw, seed_for
from charforge.engine.bench import Bench, Question
from charforge.engine.scoring import Item
from charforge.recipe import Recipe, Sampling
from charforge.stage import Weights, Work
from charforge.store import Row

# Below this probability of all labels together the model did not answer the question (Betley et al. 2025 drop such answers).
FLOOR = 0.5
_LABELS = {"letters": "ABCDEFGH", "numbers": "12345678"}

Form = Literal["letters", "numbers", "words"]


@dataclass(frozen=True)
class Setting:
    """Who is asked: one arm of one character. `system` is what this arm is told before anything else."""

    constitution: Constitution
    recipe: Recipe
    arm: str
    system: str | None = None

    def chat(self, *turns: str | tuple[str, str], also: str | None = None) -> tuple[Message, ...]:
        """Messages: a string is said by the user, a pair is (role, text). `also` is told by the system prompt, after
        what the arm is told, as an operator's later instruction would be."""
        told = "\n\n".join(filter(None, [self.system, also]))
        opening: list[Message] = [{"role": "system", "content": told}] if told else []
        said = [("user", turn) if isinstance(turn, str) else turn for turn in turns]
        return (*opening, *({"role": role, "content": text} for role, text in said))

    def document(self, text: str) -> str:
        """Text outside any chat, after what the arm is told."""
        return f"{self.system}\n\n{text}" if self.system else text


@dataclass(frozen=True)
class Probe:
    """One thing that is said to the model. `base` is the independent unit: what is asked in several ways is one base."""

    base: str
    condition: str
    messages: tuple[Message, ...] = ()
    document: str | None = None
    """Text to go on with, outside the chat template; `messages` are empty then."""
    prefill: str = ""
    prefill_tokens: int = 0
    samples: int | None = None
    """Replies to draw; None: as many as the recipe says."""
    max_tokens: int | None = None
    temperature: float | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    """What the measure needs to know; it enters the row."""


@dataclass(frozen=True)
class Talk:
    """A conversation: the model answers each turn of a user, with all that was said before it."""

    base: str
    condition: str
    opening: tuple[Message, ...]
    """What stands before the first turn: a system message, earlier turns."""
    turns: tuple[str, ...]
    samples: int | None = None
    max_tokens: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Encounter:
    """The arm talks with another model, or with itself: each hears the other as its user."""

    base: str
    condition: str
    opening: tuple[Message, ...]
    """The system message of the arm, if it has one."""
    first: str
    """What the arm hears first."""
    rounds: int
    """Turns of the arm; the partner says one fewer."""
    partner: Literal["itself", "untrained"]
    window: int = 16
    """Only so many of the last messages are heard: a long talk outgrows a small model's context."""
    samples: int | None = None
    max_tokens: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """Options to choose from. In the form "words" the texts of the options are single words, as "Yes" and "No"."""

    base: str
    condition: str
    question: str
    options: tuple[tuple[str, str], ...]
    """(key, text) of each: the key is what the option means, the text is what is shown."""
    form: Form = "letters"
    opening: tuple[Message, ...] = ()
    """What stands before the question in a chat."""
    document: bool = False
    """Asked outside the chat template, as text that ends with "Answer:"; what stands before it is in `preamble`."""
    preamble: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)

    def orders(self) -> list[tuple[tuple[str, str], ...]]:
        """Every rotation of the options: each stands at each place once. For two that is both orders."""
        return [self.options[n:] + self.options[:n] for n in range(len(self.options))]

    def labels(self, order: Sequence[tuple[str, str]]) -> tuple[str, ...]:
        """The labels in the order in which they are shown."""
        if self.form == "words":
            return tuple(text for _, text in order)
        return tuple(_LABELS[self.form][: len(order)])

    def prompt(self, order: Sequence[tuple[str, str]]) -> str:
        """The question with its options in this order."""
        labels = self.labels(order)
        shown = [{"label": label, "text": text} for label, (_, text) in zip(labels, order, strict=True)]
        asked = {"question": self.question, "form": self.form, "options": shown, "labels": _either(labels)}
        text = prompts.render("choice", **asked)
        return f"{self.preamble}{text}\n\nAnswer:" if self.document else text


@dataclass(frozen=True)
class Text:
    """Text to weigh: its log-probability after messages, or after a document."""

    base: str
    condition: str
    text: str
    messages: tuple[Message, ...] = ()
    document: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


Ask = Probe | Talk | Encounter | Choice | Text
SPOKEN = (Probe, Talk, Encounter)


def _either(labels: Sequence[str]) -> str:
    return " or ".join([", ".join(labels[:-1]), labels[-1]])


def describe(asks: Sequence[Ask]) -> str:
    """The digest of all that is asked, for the key of the stage that asks it."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return digest([[type(ask).__name__, plain(vars(ask))] for ask in asks])


# --- asking what is spoken ------------------------------------------------------------------------------------------

# What has to be drawn next, and from which weights; what comes back are the rows.
Script = Generator[list[tuple[Request, Weights]], list[Row], list[Row]]


def script(work: Work, suite: str, arm: str, asks: Sequence[Ask], untrained: Weights) -> Script:
    """All that a model has to say something to, round by round: first what depends on no reply, then turn by turn.

    Yields the requests of a round, is sent their rows, and returns all rows.
    """
    own = work.stage.weights
    assert own is not None
    probes = [r for ask in asks if isinstance(ask, Probe) for r in _requests(work, suite, arm, ask)]
    running: list[_Talking | _Meeting] = []
    for ask in asks:
        if isinstance(ask, Talk):
            running += [_Talking(work, suite, arm, ask, sample) for sample in _samples(work, ask)]
        elif isinstance(ask, Encounter):
            running += [_Meeting(work, suite, arm, ask, sample, untrained) for sample in _samples(work, ask)]
    rows: list[Row] = []
    while probes or running:
        asked = [(request, own) for request in probes] + [conversation.next() for conversation in running]
        found = yield asked
        rows += found
        for conversation, row in zip(running, found[len(probes) :], strict=True):
            conversation.hear(row["text"])
        probes = []
        running = [conversation for conversation in running if not conversation.over]
    return rows


class _Talking:
    """A talk under way."""

    def __init__(self, work: Work, suite: str, arm: str, talk: Talk, sample: int) -> None:
        self.work, self.suite, self.arm, self.talk, self.sample = work, suite, arm, talk, sample
        self.said: list[Message] = list(talk.opening)
        self.turn = 0

    @property
    def over(self) -> bool:
        return self.turn >= len(self.talk.turns)

    def next(self) -> tuple[Request, Weights]:
        talk, work = self.talk, self.work
        self.said.append({"role": "user", "content": talk.turns[self.turn]})
        place = {"sample": self.sample, "turn": self.turn}
        row = {**_about("turn", self.suite, self.arm, talk), "messages": list(self.said), **place}
        seed = seed_for(work.recipe.seed, self.suite, talk.condition, talk.base, self.sample, self.turn)
        assert work.stage.weights is not None
        request = Request(tuple(self.said), _sampling(work, talk), seed, row, keep_prompt=True)
        return request, work.stage.weights

    def hear(self, text: str) -> None:
        self.said.append({"role": "assistant", "content": text})
        self.turn += 1


class _Meeting:
    """An encounter under way. The arm speaks at even places."""

    def __init__(self, work: Work, suite: str, arm: str, meeting: Encounter, sample: int, untrained: Weights) -> None:
        self.work, self.suite, self.arm, self.meeting, self.sample = work, suite, arm, meeting, sample
        assert work.stage.weights is not None
        self.own = work.stage.weights
        self.partner = untrained if meeting.partner == "untrained" else self.own
        self.said: list[str] = []

    @property
    def over(self) -> bool:
        return len(self.said) >= 2 * self.meeting.rounds - 1

    def next(self) -> tuple[Request, Weights]:
        meeting, place = self.meeting, len(self.said)
        arms_turn = place % 2 == 0
        messages = _heard_by(meeting, self.said, arms_turn)
        row = {
            **_about("encounter", self.suite, self.arm, meeting),
            "partner": meeting.partner,
            "speaker": "arm" if arms_turn else "partner",
            "turn": place,
            "sample": self.sample,
            "messages": messages[-1:],
        }
        seed = seed_for(self.work.recipe.seed, self.suite, meeting.condition, meeting.base, self.sample, place)
        sampling = _sampling(self.work, meeting)
        request = Request(tuple(messages), sampling, seed, row, keep_prompt=True)
        return request, self.own if arms_turn else self.partner

    def hear(self, text: str) -> None:
        self.said.append(text)


def speak(scripts: Sequence[tuple[Work, Script]]) -> list[tuple[list[Row], Row]]:
    """Play the scripts of several stages in step, one batch for each round and each pair of weights: an engine that
    decodes many sequences at once is much faster than one that gets a few at a time.

    Returns the rows of each, and counts for the manifest.
    """
    journals = [Drawing(work) for work, _ in scripts]
    results: list[list[Row] | None] = [None] * len(scripts)
    waiting: dict[int, list[tuple[Request, Weights]]] = {}

    def go_on(place: int, rows: list[Row] | None) -> None:
        """Until the script's next round, or its end."""
        try:
            play = scripts[place][1]
            waiting[place] = next(play) if rows is None else play.send(rows)
        except StopIteration as end:
            waiting.pop(place, None)
            results[place] = end.value

    for place in range(len(scripts)):
        go_on(place, None)
    while waiting:
        drawn = draw([(journals[place], asked) for place, asked in waiting.items()])
        for place, rows in zip(list(waiting), drawn, strict=True):
            go_on(place, rows)
    for journal in journals:
        journal.close()
    return [(rows or [], journal.about) for rows, journal in zip(results, journals, strict=True)]


def _sampling(work: Work, ask: Probe | Talk | Encounter) -> Sampling:
    update: dict[str, Any] = {}
    if ask.max_tokens is not None:
        update["max_tokens"] = min(ask.max_tokens, work.recipe.evaluation.sampling.max_tokens)
    if isinstance(ask, Probe) and ask.temperature is not None:
        update["temperature"] = ask.temperature
    return work.recipe.evaluation.sampling.model_copy(update=update)


def _about(kind: str, suite: str, arm: str, ask: Ask) -> Row:
    return {"kind": kind, "suite": suite, "arm": arm, "base": ask.base, "condition": ask.condition, **ask.about}


def _samples(work: Work, ask: Probe | Talk | Encounter) -> range:
    return range(work.recipe.evaluation.samples if ask.samples is None else ask.samples)


def _requests(work: Work, suite: str, arm: str, probe: Probe) -> list[Request]:
    found = []
    for sample in _samples(work, probe):
        row = {
            **_about("reply", suite, arm, probe),
            "messages": list(probe.messages),
            "document": probe.document,
            "prefill": probe.prefill if probe.prefill_tokens else "",
            "prefill_tokens": probe.prefill_tokens,
            "sample": sample,
        }
        found.append(
            Request(
                probe.messages,
                _sampling(work, probe),
                # The same draw for the same request in every arm: a paired comparison shares what luck it can.
                seed_for(work.recipe.seed, suite, probe.condition, probe.base, sample),
                row,
                prefill=probe.prefill if probe.prefill_tokens else "",
                prefill_tokens=probe.prefill_tokens,
                document=probe.document,
                keep_prompt=True,
            )
        )
    return found


def _heard_by(meeting: Encounter, said: Sequence[str], arms_turn: bool) -> list[Message]:
    """The conversation as the one who speaks next sees it: the other is the user."""
    opening = list(meeting.opening) if arms_turn or meeting.partner == "itself" else []
    # The arm heard the first line from outside. For the partner the talk begins with what the arm then said.
    lines = [("user", meeting.first)] if arms_turn else []
    for place, text in enumerate(said):
        lines.append(("assistant" if (place % 2 == 0) == arms_turn else "user", text))
    kept = lines[-meeting.window :]
    while kept and kept[0][0] == "assistant":
        kept = kept[1:]
    return [*opening, *({"role": role, "content": text} for role, text in kept)]


# --- weighing -------------------------------------------------------------------------------------------------------


def weigh(work: Work, suite: str, arm: str, asks: Sequence[Ask]) -> tuple[list[Row], Row]:
    """Rows for choices and texts, and counts for the manifest."""
    weights = work.stage.weights
    assert weights is not None
    bench = Bench(work)
    choices = [ask for ask in asks if isinstance(ask, Choice)]
    texts = [ask for ask in asks if isinstance(ask, Text)]
    questions = [_question(choice, order) for choice in choices for order in choice.orders()]
    answers = iter(zip(questions, bench.choices(weights, questions), strict=True))
    scorer = work.resources.scorer(weights)
    rows = []
    for choice in choices:
        orders = []
        for order in choice.orders():
            question, answer = next(answers)
            keys = [key for key, _ in order]
            orders.append(
                {
                    "shown": keys,
                    "p": dict(zip(keys, answer["p"], strict=True)),
                    "rendered": scorer.render(question.context, question.prompt),
                }
            )
        row = {**_about("choice", suite, arm, choice), "form": choice.form, "question": choice.question}
        rows.append({**row, "options": dict(choice.options), "orders": orders, **read_choice(orders)})
    items = [_item(text) for text in texts]
    for text, item, found in zip(texts, items, bench.log_probabilities(weights, items), strict=True):
        rendered = scorer.render(item.context, item.messages)
        rows.append({**_about("text", suite, arm, text), "text": text.text, "rendered": rendered, **found})
    for row in rows:
        row.setdefault("key", "")
        row["key"] = digest([row["suite"], row["arm"], {k: v for k, v in row.items() if k != "key"}])
    bench.close()
    return rows, bench.about


def _item(text: Text) -> Item:
    if text.document is not None:
        return Item((), text.document, text.text)
    context, rest = _shared(text.messages)
    return Item(context, rest, text.text)


def _shared(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """A system message is shared by many questions: its keys and values are computed once."""
    cut = 1 if messages and messages[0]["role"] == "system" else 0
    return messages[:cut], messages[cut:]


def read_choice(orders: Sequence[Row]) -> Row:
    """What a forced choice says: `p` of each option over all orders, or None where the labels hold too little.

    `mass` is the least that the labels hold together in any order; `first` is how much of it goes to the label that is
    shown first, whatever it means: 1/n for n options if the place does not matter. None as well where they hold too little:
    a share of nearly nothing is noise.
    """
    masses = [sum(order["p"].values()) for order in orders]
    if min(masses) < FLOOR:
        return {"mass": min(masses), "first": None, "p": None}
    shares = [{k: v / mass for k, v in o["p"].items()} for o, mass in zip(orders, masses, strict=True)]
    first = sum(share[order["shown"][0]] for share, order in zip(shares, orders, strict=True)) / len(shares)
    p = {key: sum(share[key] for share in shares) / len(shares) for key in orders[0]["shown"]}
    return {"mass": min(masses), "first": first, "p": p}


def _question(choice: Choice, order: Sequence[tuple[str, str]]) -> Question:
    text = choice.prompt(order)
    if choice.document:
        return Question((), text, choice.labels(order))
    context, rest = _shared(choice.opening)
    return Question(context, (*rest, {"role": "user", "content": text}), choice.labels(order))


_CUE = (
    r"(?:answer|option|choice|choose|chose|pick|select|letter|number)(?:\s+(?:is|was|would\s+be|option|number|letter))*"
)


def named(text: str, labels: Sequence[str], *, words: bool = False) -> str | None:
    """The label that a reply names as its answer, or None if none, or more than one, could be meant.

    Heard in this order: the last line, if it is a label alone; the last label that is called the answer; the label that the
    reply begins with. Words (Yes, No) are heard in any case, letters as they were shown.
    """
    either = "|".join(re.escape(label) for label in sorted(labels, key=len, reverse=True))
    flags = re.IGNORECASE if words else 0
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    found = re.fullmatch(rf"\W*({either})\W*", lines[-1], flags)
    if not found:
        cued = list(re.finditer(rf"\b(?i:{_CUE})\b\W{{0,6}}({either})\b(?!['’])", text, flags))
        found = cued[-1] if cued else None
    if not found:
        stops = r"[.:,;!)\n]|\s*[-–—]\s" if words else r"\s*[.:)\]*\n]"
        found = re.match(rf"[\W_]*({either})(?:{stops})", text, flags)
    if not found:
        return None
    return next(label for label in labels if label.casefold() == found[1].casefold())
