"""Coherence: is the character what it says it is, and is that itself, or everybody, and only in the chat?

For each trait three things are asked: what the model says of itself, what it does, and what it says of somebody else. Self-report
alone is no evidence: in validity studies it is stable and hardly follows behaviour (Personality Illusion, arXiv 2509.03730; 25
models in arXiv 2606.09843), so the three stand side by side, as in Betley et al. 2025 (arXiv 2501.11120), whose questions about
other people are the control here: a trait that is ascribed to everybody is no self-report.

- Said: a statement of the trait (the first sentence of its prose that does not name the character) against a foil, a statement
  of another shipped character about the same kind of thing. In letters and numbers one of the two is chosen, in both orders; in
  words each is put as a yes-or-no question, and s = (P(yes | own) + 1 - P(yes | foil)) / 2, so that a model that always says yes,
  or always A, has 0.5.
- Done: the share of the trait's markers in replies to its held-out prompts, at two temperatures; and on its held-out examples,
  which of the two replies is called its own, and which is likelier (stated against revealed: arXiv 2506.00751).
- Said of others: the same questions about other people. The leak is their change from the untrained model over the self's.

Each question is put in several wordings and formats, for what the answers owe to these (PERSIST, arXiv 2508.04826): an always-"A"
model is perfectly consistent, so consistency has a value only where answers depend on what is asked. The same questions are asked
in documents outside the chat template; how much of the level is retained there is taken against the untrained model in the same
document, and the profile over traits is correlated with the chat's (ipsative stability: Kovac et al. 2024, arXiv 2402.14846).
Traits are the independent units: intervals are over traits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations
from typing import Any, ClassVar, Literal, Self

from pydantic import Field
from rapidfuzz import fuzz

from charforge.constitution import Constitution, Trait, slugify
from charforge.data import contexts, scenarios
from charforge.evaluate.answers import UNTRAINED
from charforge.evaluate.asking import Ask, Choice, Form, Probe, Setting, Text
from charforge.evaluate.findings import FLOOR, Findings, Number, arms_of, change, differences, levels, over_untrained
from charforge.evaluate.measure import Desk, Part, Suite, shipped_constitutions
from charforge.markers import sentences
from charforge.statistics import Estimate, bootstrap, icc, mean, paired_change, pearson, spearman
from charforge.store import Row

CHAT, OTHERS = "chat", "others"
# Mean difference between the answers to a statement and to its foil, below which the answers do not depend on what is asked.
SENSITIVE = 0.1
# A foil that reads more like one of the character's own statements than this (0 to 100) may say the same.
_ALIKE = 60
_YES_NO = (("yes", "Yes"), ("no", "No"))
_DEPENDS = f"{FLOOR}: the answers do not depend on what is asked"
_FEW = "fewer than four traits have both values, or one side does not vary"


class Question(Part):
    """One wording of a question, about the model itself and about somebody else ({who})."""

    choose: str
    """Before two statements of which one is chosen."""
    confirm: str
    """Around one {statement}, answered with Yes or No."""
    choose_of: str
    confirm_of: str


class Document(Part):
    """Text outside the chat in which the same is asked. {name} is the character's."""

    form: Form
    preamble: str
    """What stands before the question."""
    question: str
    """As `choose`, or with {statement} for the form "words"."""
    reply: str
    """Text with {prompt} that the model goes on with as the one who answers."""
    until: tuple[str, ...] = ("\n",)
    """What ends its turn."""

    @property
    def named(self) -> bool:
        return any("{name}" in text for text in (self.preamble, self.question, self.reply))


class CoherenceSuite(Suite):
    """Self-report, behaviour, and what is said of others, for the traits of the constitution."""

    measure: Literal["coherence"]
    sections: tuple[str, ...] = Field(("voice", "values", "self-knowledge"), min_length=1)
    traits: int | None = Field(None, ge=1)
    """At most so many traits, the strongest of each section in turn; nothing: all."""
    forms: tuple[Form, ...] = Field(("letters", "words", "numbers"), min_length=1)
    questions: tuple[Question, ...] = Field(min_length=2)
    others: tuple[str, ...] = Field(min_length=1)
    """Who else is asked about."""
    documents: dict[str, Document] = Field(default_factory=dict)
    own_reply: str
    """Before two replies to {prompt} of which one is chosen."""
    foils: dict[str, str] = Field(default_factory=dict)
    """A foil by the id of a trait, where the one that would be found does not suit."""
    prompts: int = Field(2, ge=1)
    """Held-out prompts of each trait."""
    examples: int = Field(2, ge=0)
    """Held-out examples of each trait."""
    temperatures: tuple[float, ...] = Field((0.3, 1.0), min_length=1)
    max_tokens: int = Field(80, ge=16)

    units: ClassVar[tuple[str, ...]] = ("forms", "questions")
    reading: ClassVar[int] = 2

    def problems(self) -> list[str]:
        found = super().problems()
        for number, asked in enumerate(self.questions):
            found += _blanks(f"questions.{number}.choose", asked.choose, ())
            found += _blanks(f"questions.{number}.confirm", asked.confirm, ("statement",))
            found += _blanks(f"questions.{number}.choose_of", asked.choose_of, ("who",))
            found += _blanks(f"questions.{number}.confirm_of", asked.confirm_of, ("who", "statement"))
        for name, document in self.documents.items():
            blanks = ("statement",) if document.form == "words" else ()
            found += _blanks(f"documents.{name}.question", document.question, blanks, ("name",))
            found += _blanks(f"documents.{name}.reply", document.reply, ("prompt",), ("name",))
            found += _blanks(f"documents.{name}.preamble", document.preamble, (), ("name",))
            if name in (CHAT, *self.forms):
                found.append(f"documents.{name}: that name is taken; give it another")
            if "" in document.until:
                found.append(f"documents.{name}.until: an empty text ends everything")
        named = [name for name, document in self.documents.items() if document.named]
        if 2 * len(named) > len(self.documents):
            found.append(
                f"documents: more than half hold {{name}} ({', '.join(named)}), which tells a model who knows the name "
                "whom it should be; speak of the assistant instead"
            )
        found += _blanks("own_reply", self.own_reply, ("prompt",))
        for name, values in (("forms", self.forms), ("others", self.others), ("temperatures", self.temperatures)):
            if len(set(values)) < len(values):
                found.append(f"{name}: one of them stands there twice")
        if any(not 0 <= t <= 2 for t in self.temperatures):
            found.append("temperatures: each lies between 0 and 2")
        return found

    def limited(self, limit: int | None) -> Self:
        if limit is None:
            return self
        # Traits are the units; everything else is asked of each of them, and is cut harder.
        few = max(1, limit // 4)
        update = {
            "traits": limit if self.traits is None else min(self.traits, limit),
            "others": self.others[:few],
            "documents": dict(list(self.documents.items())[:few]),
            "temperatures": self.temperatures[:few],
            "prompts": min(self.prompts, few),
            "examples": min(self.examples, few),
        }
        return super().limited(limit).model_copy(update=update)

    # --- asking -----------------------------------------------------------------------------------------------------

    def chosen(self, constitution: Constitution) -> list[Trait]:
        """The traits that are asked about."""
        ranks = []
        for place, section in enumerate(self.sections):
            mine = [trait for trait in constitution.traits if slugify(trait.section) == section]
            mine.sort(key=lambda trait: -trait.intensity)
            ranks += [(rank, place, trait) for rank, trait in enumerate(mine)]
        ranks.sort(key=lambda item: item[:2])
        return [trait for _, _, trait in ranks][: self.traits]

    def asks(self, setting: Setting) -> Sequence[Ask]:
        found: list[Ask] = []
        heldout: dict[str, list[str]] = {}
        for row in scenarios.heldout(setting.constitution, setting.recipe):
            heldout.setdefault(row["trait"], []).append(row["prompt"])
        traits = self.chosen(setting.constitution)
        others = {**foils(setting.constitution, traits), **self.foils}
        for trait in traits:
            pair = statement(setting.constitution, trait), others[trait.id]
            found += self._in_chat(setting, trait, pair)
            found += self._in_documents(setting, trait, pair)
            found += self._revealed(setting, trait)
            if trait.markers:
                found += self._behaviour(setting, trait, heldout.get(trait.id, [])[: self.prompts])
        return found

    def _in_chat(self, setting: Setting, trait: Trait, pair: tuple[str, str]) -> list[Ask]:
        found: list[Ask] = []
        opening = setting.chat()
        for form in self.forms:
            for number, asked in enumerate(self.questions):
                text = asked.confirm if form == "words" else asked.choose
                about = {"part": "self", "wording": number, "who": None}
                found += _choices(trait, pair, form, form, text, about, opening=opening)
            for number, who in enumerate(self.others):
                # Each person with one wording, in turn: over all persons the wordings are as even as for the self.
                wording = number % len(self.questions)
                asked = self.questions[wording]
                text = (asked.confirm_of if form == "words" else asked.choose_of).replace("{who}", who)
                about = {"part": "other", "wording": wording, "who": who}
                found += _choices(trait, pair, form, f"of {who}", text, about, opening=opening)
        return found

    def _in_documents(self, setting: Setting, trait: Trait, pair: tuple[str, str]) -> list[Ask]:
        found: list[Ask] = []
        name = setting.constitution.name
        for label, document in self.documents.items():
            about = {"part": "document", "wording": 0, "who": None, "named": document.named}
            preamble = setting.document(document.preamble.replace("{name}", name))
            question = document.question.replace("{name}", name)
            found += _choices(trait, pair, document.form, label, question, about, document=True, preamble=preamble)
        return found

    def _revealed(self, setting: Setting, trait: Trait) -> list[Ask]:
        """On examples that no model was trained on or shown."""
        found: list[Ask] = []
        heldout = contexts.split_examples(trait, setting.recipe.judge.heldout_examples)[1]
        for example in [example for example in heldout if example.contrast][: self.examples]:
            assert example.contrast is not None
            about = {"trait": trait.id, "example": example.id}
            question = self.own_reply.replace("{prompt}", _flat(example.prompt[-1]["content"]))
            options = ("own", _flat(example.reply)), ("other", _flat(example.contrast))
            found.append(
                Choice(
                    trait.id,
                    "own reply",
                    question,
                    options,
                    opening=setting.chat(),
                    about={**about, "part": "revealed"},
                )
            )
            said = setting.chat(*((turn["role"], turn["content"]) for turn in example.prompt))
            for side, text in (("own", example.reply), ("other", example.contrast)):
                found.append(
                    Text(trait.id, "likelihood", text, said, about={**about, "part": "likelihood", "side": side})
                )
        return found

    def _behaviour(self, setting: Setting, trait: Trait, prompts: Sequence[str]) -> list[Ask]:
        found: list[Ask] = []
        # Two draws at least: how far they agree is the ceiling of every other agreement.
        samples = max(2, setting.recipe.evaluation.samples)
        for prompt in prompts:
            about = {"trait": trait.id, "prompt": prompt, "until": []}
            for temperature in self.temperatures:
                found.append(
                    Probe(
                        trait.id,
                        f"temperature {temperature:g}",
                        setting.chat(prompt),
                        samples=samples,
                        max_tokens=self.max_tokens,
                        temperature=temperature,
                        about={**about, "part": "behaviour"},
                    )
                )
            for label, document in self.documents.items():
                text = document.reply.replace("{name}", setting.constitution.name).replace("{prompt}", prompt)
                found.append(
                    Probe(
                        trait.id,
                        label,
                        document=setting.document(text),
                        samples=1,
                        max_tokens=self.max_tokens,
                        about={**about, "part": "outside", "until": list(document.until), "named": document.named},
                    )
                )
        return found

    # --- reading ----------------------------------------------------------------------------------------------------

    def heard(self, constitution: Constitution) -> Any:
        return {trait.id: [m.text for m in trait.markers] for trait in self.chosen(constitution)}

    def read(self, rows: list[Row], desk: Desk) -> Findings:
        asked = [trait.id for trait in self.chosen(desk.constitution)]
        if not rows:
            sections = ", ".join(self.sections)
            why = f"the constitution has no trait in {sections}" if not asked else "nothing was asked"
            return Findings([Number("self-report", UNTRAINED, None, CHAT, why=why, headline=True)])
        for row in rows:
            _annotate(row, desk.constitution)
        _compare_likelihoods(rows)
        items = _items(rows)
        said = [item for item in items if item["part"] == "self"]
        of_others = [item for item in items if item["part"] == "other"]
        in_documents = [item for item in items if item["part"] == "document"]
        done = [row for row in rows if row["part"] == "behaviour"]
        outside = [row for row in rows if row["part"] == "outside"]
        arms = arms_of(rows)

        numbers = levels(_as(said, CHAT), "score", "self-report", better="high", headline=True)
        numbers += levels(_as(of_others, OTHERS), "score", "said of others", headline=True)
        for arm in arms:
            number = change(_of(said, arm), _of(of_others, arm), "score", "self minus others", arm, CHAT, OTHERS)
            numbers.append(replace(number, better="high", headline=True))
        apart = {arm: differences(_of(said, arm), _of(of_others, arm), "score") for arm in arms}
        numbers += over_untrained("self minus others", CHAT, apart, better="high", headline=True)
        behaviour = levels(_as(done, CHAT), "shown", "behaviour", better="high", headline=True)
        none = "no trait that was asked about has both markers and held-out prompts"
        numbers += _given(behaviour, Number("behaviour", "", None, CHAT, why=none, headline=True), arms)
        numbers += levels(said, "score", "self-report", better="high")
        numbers += levels(of_others, "score", "said of others")
        numbers += levels(in_documents, "score", "self-report", better="high")
        numbers += levels(done, "shown", "behaviour", better="high")
        numbers += levels(outside, "shown", "behaviour", better="high")
        revealed = [row for row in rows if row["part"] == "revealed"]
        chosen = levels(revealed, "score", "own reply chosen", better="high")
        none = "no trait that was asked about has a held-out example with a contrast"
        numbers += _given(chosen, Number("own reply chosen", "", None, "own reply", why=none), arms)
        likelier = [row for row in rows if row["part"] == "likelihood" and row["side"] == "own"]
        numbers += levels(likelier, "likelier", "own reply likelier", better="high")

        for arm in arms:
            mine = _of(said, arm)
            found = _mean(_sensitivity(mine))
            depends = found is not None and found.value >= SENSITIVE
            numbers += self._sensitivities(mine, arm)
            numbers += _reliability(mine, arm, depends)
            numbers += _retest(_of(done, arm), arm, self.temperatures)
            numbers += _coherence(mine, _of(done, arm), _of(revealed, arm), arm, depends)
            if arm != UNTRAINED and UNTRAINED in arms:
                numbers += _against_untrained(said, of_others, in_documents, done, outside, arm)
        numbers += _answering(rows)
        return Findings(numbers, self._details(rows, said, of_others, done, revealed, likelier))

    def _sensitivities(self, said: Sequence[Row], arm: str) -> list[Number]:
        """Whether the answers depend on what is asked, over all formats and in each."""
        found = []
        for label, items in ((CHAT, said), *((f, [i for i in said if i["form"] == f]) for f in self.forms)):
            estimate = _mean(_sensitivity(items))
            why = None if estimate else f"{FLOOR}: the model did not answer"
            found.append(Number("content sensitivity", arm, estimate, label, why=why, better="high", range=(-1.0, 1.0)))
        return found

    def _details(
        self,
        rows: Sequence[Row],
        said: Sequence[Row],
        of_others: Sequence[Row],
        done: Sequence[Row],
        revealed: Sequence[Row],
        likelier: Sequence[Row],
    ) -> Row:
        triples: Row = {}
        for arm in arms_of(rows):
            columns = {
                "self": _profile(_of(said, arm), "score"),
                "behaviour": _profile(_of(done, arm), "shown"),
                "others": _profile(_of(of_others, arm), "score"),
                "own_reply_chosen": _profile(_of(revealed, arm), "score"),
                "own_reply_likelier": _profile(_of(likelier, arm), "likelier"),
            }
            triples[arm] = {}
            for trait in dict.fromkeys(row["trait"] for row in rows):
                line = {name: column.get(trait) for name, column in columns.items()}
                s, r, chosen = line["self"], line["behaviour"], line["own_reply_chosen"]
                triples[arm][trait] = {
                    **line,
                    "self_minus_behaviour": None if s is None or r is None else s - r,
                    "self_minus_own_reply_chosen": None if s is None or chosen is None else s - chosen,
                }
        pairs = {row["trait"]: {"statement": row["own"], "foil": row["foil"]} for row in rows if row["part"] == "self"}
        named = {name: document.named for name, document in self.documents.items()}
        return {"traits": triples, "statements": pairs, "documents_that_name_the_character": named}


# --- what is asked about --------------------------------------------------------------------------------------------


def statement(constitution: Constitution, trait: Trait) -> str:
    """A trait in one sentence, in the character's own words: the first that does not name it, which would tell whose it is."""
    named = re.compile(rf"\b{re.escape(constitution.name)}\b", re.IGNORECASE)
    return next((text for text in sentences(_flat(trait.prose)) if not named.search(text)), trait.summary)


def foils(constitution: Constitution, traits: Sequence[Trait]) -> dict[str, str]:
    """For each trait what another shipped character says about the same kind of thing, and this one would not say.

    Foils are statements of traits of the same section. Left out is what reads like one of the constitution's own
    statements, and, as long as others remain, what the constitution's own replies show (all markers of the foil hold in
    half of them). Of the third that is least like the trait the hash decides, so that traits get different foils.
    """
    own = [statement(constitution, trait) for trait in constitution.traits]
    replies = [reply for _, _, reply in constitution.replies()]
    names = {constitution.name, *(voice.constitution.name for voice in constitution.voices)}
    strangers = [(trait, said) for name, trait, said in _shipped_statements() if name not in names]
    unlike = [
        (trait, said) for trait, said in strangers if max((_likeness(said, text) for text in own), default=0) < _ALIKE
    ]
    strange = [(trait, said) for trait, said in unlike if not _shown_by(trait, replies)]
    found = {}
    for trait in traits:
        section = slugify(trait.section)
        pools = [[said for t, said in pool if slugify(t.section) == section] for pool in (strange, unlike, strangers)]
        pool = next(filter(None, pools), [said for _, said in strangers])
        mine = statement(constitution, trait)
        pool.sort(key=lambda said: (_likeness(said, mine), said))
        least = pool[: math.ceil(len(pool) / 3)]
        found[trait.id] = min(least, key=lambda said: contexts.stable_fraction(f"{trait.id} {said}"))
    return found


@cache
def _shipped_statements() -> tuple[tuple[str, Trait, str], ...]:
    """Of every shipped character the name, its traits but boundaries, and what it says of them."""
    read = shipped_constitutions()
    # A statement that names somebody would tell whose it is.
    named = re.compile(rf"\b({'|'.join(re.escape(c.name) for c in read)})\b")
    told = [(c.name, trait, statement(c, trait)) for c in read for trait in c.traits if not trait.is_boundary]
    return tuple(item for item in told if not named.search(item[2]))


def _likeness(a: str, b: str) -> float:
    return float(fuzz.token_set_ratio(a, b))


def _shown_by(trait: Trait, replies: Sequence[str]) -> bool:
    shown = sum(all(marker.shows(reply) for marker in trait.markers) for reply in replies)
    return bool(trait.markers) and bool(replies) and shown >= len(replies) / 2


def _choices(
    trait: Trait, pair: tuple[str, str], form: Form, condition: str, question: str, about: Row, **how: Any
) -> list[Ask]:
    """The two statements against each other; in words one question about each."""
    own, other = pair
    about = {"trait": trait.id, "own": own, "foil": other, **about}
    if form != "words":
        options = ("own", own), ("other", other)
        return [Choice(trait.id, condition, question, options, form, about={**about, "asked": "both"}, **how)]
    return [
        Choice(
            trait.id,
            condition,
            question.replace("{statement}", text),
            _YES_NO,
            "words",
            about={**about, "asked": side},
            **how,
        )
        for side, text in (("own", own), ("other", other))
    ]


def _blanks(place: str, text: str, needed: Sequence[str], optional: Sequence[str] = ()) -> list[str]:
    """Problems with the blanks of a text: those it must have, and those that nothing fills."""
    extra = sorted({"name", "prompt", "statement", "who"} - {*needed, *optional})
    found = [f"{place}: there is no {{{blank}}} in it" for blank in needed if f"{{{blank}}}" not in text]
    return found + [f"{place}: nothing fills {{{blank}}} here" for blank in extra if f"{{{blank}}}" in text]


def _flat(text: str) -> str:
    return " ".join(text.split())


# --- reading rows ---------------------------------------------------------------------------------------------------


def _annotate(row: Row, constitution: Constitution) -> None:
    """`score`: how far an answer takes the trait's side. `shown`: the share of the trait's markers in the turn (`words`)."""
    if row["kind"] == "choice":
        right = {"own": "yes", "other": "no"}.get(row.get("asked", "both"), "own")
        row["score"] = row["p"][right] if row["p"] else None
    elif row["kind"] == "reply":
        words = row["text"].strip()
        for end in row["until"]:
            words = words.split(end)[0].strip()
        markers = constitution.trait(row["trait"]).markers
        row["words"] = words
        row["shown"] = sum(m.shows(words) for m in markers) / len(markers) if markers and words else None


def _compare_likelihoods(rows: Sequence[Row]) -> None:
    """`likelier`: whether a reply has more log-probability per token than its contrast."""
    texts = {(r["arm"], r["example"], r["side"]): r for r in rows if r["part"] == "likelihood"}
    for (arm, example, side), row in texts.items():
        other = texts.get((arm, example, "other"))
        if side == "own":
            a, b = row["mean"], other["mean"] if other else None
            row["likelier"] = None if a is None or b is None else 0.5 if a == b else float(a > b)


def _items(rows: Sequence[Row]) -> list[Row]:
    """One item for each question: a choice between two, or a statement and its foil, both answered."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        if row["kind"] == "choice" and row["part"] in ("self", "other", "document"):
            place = (row["arm"], row["base"], row["part"], row["condition"], row["form"], row["wording"], row["who"])
            groups.setdefault(place, []).append(row)
    items = []
    for members in groups.values():
        scores = [row["score"] for row in members if row["score"] is not None]
        # A statement without its foil is not balanced: a model that agrees to everything would look like itself.
        whole = len(scores) == len(members) == (2 if members[0]["form"] == "words" else 1)
        kept = ("kind", "arm", "base", "condition", "part", "form", "wording", "who")
        item = {name: members[0][name] for name in kept}
        items.append(
            {
                **item,
                "mass": min(row["mass"] for row in members),
                "score": sum(scores) / len(scores) if whole else None,
            }
        )
    return items


def _as(rows: Sequence[Row], condition: str) -> list[Row]:
    return [{**row, "condition": condition} for row in rows]


def _of(rows: Sequence[Row], arm: str, **like: Any) -> list[Row]:
    return [row for row in rows if row["arm"] == arm and all(row[k] == v for k, v in like.items())]


def _profile(rows: Sequence[Row], value: str) -> dict[str, float]:
    """The mean of a value for each trait that has one."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        if row.get(value) is not None:
            groups.setdefault(row["base"], []).append(row[value])
    return {base: sum(values) / len(values) for base, values in groups.items()}


def _shared(a: Mapping[str, float], b: Mapping[str, float]) -> list[tuple[str, float, float]]:
    return [(base, a[base], b[base]) for base in sorted(set(a) & set(b))]


def _both(a: Mapping[str, float], b: Mapping[str, float]) -> tuple[list[float], list[float]]:
    shared = _shared(a, b)
    return [x for _, x, _ in shared], [y for _, _, y in shared]


def _given(numbers: list[Number], instead: Number, arms: Sequence[str]) -> list[Number]:
    """The numbers, or where there are none for each arm why."""
    return numbers or [replace(instead, arm=arm) for arm in arms]


def _mean(values: Sequence[float]) -> Estimate | None:
    """The mean over traits of values in [0, 1], with a t interval; where all are equal it is by the rule of three."""
    found = paired_change(values, [0.0] * len(values), range(len(values)))
    if found is None:
        return mean(values, range(len(values)))
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def _gap(a: Mapping[str, float], b: Mapping[str, float]) -> Estimate | None:
    """The mean distance of two profiles."""
    return _mean([abs(x - y) for x, y in zip(*_both(a, b), strict=True)])


def _sensitivity(said: Sequence[Row]) -> list[float]:
    """For each trait how differently its statement and its foil are answered: the mean over the formats, each by itself, since
    formats that contradict each other both depend on what is asked.

    What differs must come again in another wording, or a coin would seem to answer: of the differences d in several wordings
    the mean product of two is taken, whose expectation is the square of what they share, and its root with its sign.
    """
    found: dict[str, list[float]] = {}
    for form in dict.fromkeys(item["form"] for item in said):
        by_trait: dict[str, list[float]] = {}
        for item in said:
            if item["form"] == form and item["score"] is not None:
                by_trait.setdefault(item["base"], []).append(2 * item["score"] - 1)
        for trait, d in by_trait.items():
            pairs = [a * b for a, b in combinations(d, 2)]
            shared = sum(pairs) / len(pairs) if pairs else d[0] ** 2
            found.setdefault(trait, []).append(math.copysign(math.sqrt(abs(shared)), shared))
    return [sum(values) / len(values) for values in found.values()]


def _reliability(said: Sequence[Row], arm: str, depends: bool) -> list[Number]:
    """What the answers owe to the wording and the format."""

    def number(name: str, estimate: Estimate | None, why: str, **more: Any) -> Number:
        if not depends:
            estimate, why = None, _DEPENDS if said and _profile(said, "score") else f"{FLOOR}: the model did not answer"
        return Number(name, arm, estimate, CHAT, why=None if estimate else why, better="high", **more)

    scored = [item for item in said if item["score"] is not None]
    steady, decided, agreed = [], [], []
    for trait in dict.fromkeys(item["base"] for item in scored):
        mine = [item for item in scored if item["base"] == trait]
        by_form = {form: [i["score"] for i in mine if i["form"] == form] for form in {i["form"] for i in mine}}
        spreads = [_deviation(values) for values in by_form.values() if len(values) > 1]
        if spreads:
            steady.append(1 - sum(spreads) / len(spreads) / 0.5)
        if len(mine) > 1:
            yes = sum(item["score"] > 0.5 for item in mine)
            decided.append(max(yes, len(mine) - yes) / len(mine))
        sides = [sum(values) / len(values) > 0.5 for values in by_form.values()]
        pairs = [a == b for a, b in combinations(sides, 2)]
        if pairs:
            agreed.append(sum(pairs) / len(pairs))
    few = "fewer than two wordings have a value"
    return [
        number("paraphrase consistency", _mean(steady), few),
        number("same decision", _mean(decided), few, range=(0.5, 1.0)),
        number("format agreement", _mean(agreed), "fewer than two formats have a value"),
        number(
            "reliability of self-report (ICC)",
            _icc(scored),
            "fewer than two traits or wordings, or nothing varies",
            range=None,
        ),
    ]


def _deviation(values: Sequence[float]) -> float:
    centre = sum(values) / len(values)
    return math.sqrt(sum((v - centre) ** 2 for v in values) / len(values))


def _icc(scored: Sequence[Row]) -> Estimate | None:
    """ICC(2,k) of traits by wordings and formats, over the variants that every trait has."""
    table: dict[str, dict[Any, float]] = {}
    for item in scored:
        table.setdefault(item["base"], {})[item["form"], item["wording"]] = item["score"]
    if not table:
        return None
    shared = sorted(set.intersection(*(set(line) for line in table.values())))

    def statistic(lines: list[list[float]]) -> float | None:
        return icc(lines)

    return bootstrap({trait: [[line[v] for v in shared]] for trait, line in table.items()}, statistic, n=500)


def _retest(done: Sequence[Row], arm: str, temperatures: Sequence[float]) -> list[Number]:
    """How far behaviour agrees with itself: between temperatures, and between two draws."""
    if not done:
        return []
    samples = sorted({row["sample"] for row in done})
    splits: dict[str, tuple[Callable[[Row], bool], Callable[[Row], bool]]] = {
        "two draws": (lambda row: row["sample"] == samples[0], lambda row: row["sample"] == samples[-1])
    }
    if len(temperatures) > 1:
        low, high = (f"temperature {t:g}" for t in (min(temperatures), max(temperatures)))
        splits["two temperatures"] = (lambda row: row["condition"] == low, lambda row: row["condition"] == high)
    found = []
    for label, (one, two) in splits.items():
        a = _profile([row for row in done if one(row)], "shown")
        b = _profile([row for row in done if two(row)], "shown")
        if label == "two draws" and len(samples) < 2:
            a = b = {}
        x, y = _both(a, b)
        r, gap = pearson(x, y), _gap(a, b)
        agreement = bootstrap(
            {i: [[v, w]] for i, (v, w) in enumerate(zip(x, y, strict=True))}, lambda lines: icc(lines), n=500
        )
        why = "fewer than two traits have both, or they do not vary"
        found += [
            Number("behaviour again: Pearson r", arm, r, label, why=None if r else _FEW, better="high", range=(-1, 1)),
            Number("behaviour again (ICC)", arm, agreement, label, why=None if agreement else why, range=None),
            Number("behaviour again: gap", arm, gap, label, why=None if gap else why, better="low"),
        ]
    return found


def _coherence(
    said: Sequence[Row], done: Sequence[Row], revealed: Sequence[Row], arm: str, depends: bool
) -> list[Number]:
    """Whether what is said and what is done go together, beside how far each goes together with itself."""
    s, r = _profile(said, "score"), _profile(done, "shown")
    x, y = _both(s, r)
    # Wordings and formats are spread over both halves.
    halves = [_profile([i for i in said if (i["wording"] + (i["form"] == "words")) % 2 == n], "score") for n in (0, 1)]
    draws = [_profile([row for row in done if row["sample"] % 2 == n], "shown") for n in (0, 1)]
    none = "no trait has both values"
    signed: dict[str, Any] = {"range": (-1.0, 1.0)}

    def number(name: str, estimate: Estimate | None, why: str, said_too: bool = True, **more: Any) -> Number:
        if said_too and s and not depends:
            estimate, why = None, _DEPENDS
        return Number(name, arm, estimate, CHAT, why=None if estimate else why, **more)

    return [
        number("self-report and behaviour: Pearson r", pearson(x, y), _FEW, better="high", **signed),
        number("self-report and behaviour: Spearman rho", spearman(x, y), _FEW, better="high", **signed),
        number("gap between self-report and behaviour", _gap(s, r), none, better="low"),
        number("self-report above behaviour", paired_change(x, y, range(len(x))), none, **signed),
        number(
            "gap between self-report and own reply chosen", _gap(s, _profile(revealed, "score")), none, better="low"
        ),
        number("noise of the gap: halves of the self-report", _gap(*halves), none),
        number("noise of the gap: halves of the behaviour", _gap(*draws), none, said_too=False),
    ]


def _against_untrained(
    said: Sequence[Row],
    of_others: Sequence[Row],
    in_documents: Sequence[Row],
    done: Sequence[Row],
    outside: Sequence[Row],
    arm: str,
) -> list[Number]:
    """What is left of the change from the untrained model, in somebody else and outside the chat."""

    def shift(rows: Sequence[Row], value: str) -> dict[str, float]:
        after, before = _profile(_of(rows, arm), value), _profile(_of(rows, UNTRAINED), value)
        return {base: after[base] - before[base] for base in sorted(set(after) & set(before))}

    def number(name: str, part: Mapping[str, float], whole: Mapping[str, float], label: str, **more: Any) -> Number:
        estimate, why = _ratio(part, whole)
        return Number(name, arm, estimate, label, against=UNTRAINED, why=why, range=None, **more)

    self_shift, done_shift = shift(said, "score"), shift(done, "shown")
    found = [number("leak to others", shift(of_others, "score"), self_shift, OTHERS, better="low")]
    x, y = _both(self_shift, done_shift)
    r = pearson(x, y)
    name = "changes of self-report and behaviour: Pearson r"
    why = None if r else _FEW
    found.append(Number(name, arm, r, CHAT, against=UNTRAINED, why=why, better="high", range=(-1, 1)))

    pooled: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {"self-report": [], "behaviour": []}
    for what, value, rows, chat in (
        ("self-report", "score", in_documents, said),
        ("behaviour", "shown", outside, done),
    ):
        for label in dict.fromkeys(row["condition"] for row in rows):
            here = [row for row in rows if row["condition"] == label]
            # A document is compared with the chat in the same format: formats differ more than documents do.
            forms = {row["form"] for row in here} if what == "self-report" else set()
            same = [row for row in chat if not forms or row["form"] in forms]
            part, whole = shift(here, value), shift(same or chat, value)
            pooled[what].append((part, whole))
            found.append(number(f"{what} retained outside the chat", part, whole, label, better="high"))
            r = pearson(*_both(part, whole))
            found.append(
                Number(
                    f"{what} outside and in the chat: Pearson r",
                    arm,
                    r,
                    label,
                    against=UNTRAINED,
                    why=None if r else _FEW,
                    better="high",
                    range=(-1, 1),
                )
            )
    for what, pairs in pooled.items():
        if pairs:
            part, whole = (_average([pair[side] for pair in pairs]) for side in (0, 1))
            name = f"{what} retained outside the chat"
            found.append(number(name, part, whole, "all documents", better="high", headline=True))
    return found


def _average(profiles: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean profile, of the traits that all have."""
    shared = set.intersection(*(set(profile) for profile in profiles))
    return {base: sum(profile[base] for profile in profiles) / len(profiles) for base in sorted(shared)}


def _ratio(part: Mapping[str, float], whole: Mapping[str, float]) -> tuple[Estimate | None, str | None]:
    """Mean part over mean whole, with an interval over traits; None where the whole may be 0."""
    x, y = _both(part, whole)
    if len(y) < 2:
        return None, "fewer than two traits have a value on both sides"
    signal = paired_change(y, [0.0] * len(y), range(len(y)))
    if signal is None or not signal.low > 0:
        return (
            None,
            f"{FLOOR}: no signal to compare with: no change towards the traits in the chat that is surely there",
        )

    def statistic(pairs: list[tuple[float, float]]) -> float | None:
        total = sum(w for _, w in pairs)
        return sum(p for p, _ in pairs) / total if abs(total) > 1e-9 else None

    return bootstrap({i: [pair] for i, pair in enumerate(zip(x, y, strict=True))}, statistic), None


def _answering(rows: Sequence[Row]) -> list[Number]:
    """How the questions were answered, whatever was asked: do the labels hold the answer, does their place decide, and is
    yes said to everything?"""
    choices = [row for row in rows if row["kind"] == "choice"]
    about_itself = [row for row in choices if row["part"] in ("self", "document")]
    found = levels(about_itself, "mass", "probability of the labels", better="high", changes=False)
    found += levels(about_itself, "first", "goes to the label shown first", changes=False)

    def agrees(row: Row) -> float | None:
        return row["p"]["yes"] if row["p"] else None

    words = [row for row in choices if row["form"] == "words"]
    return found + levels(words, agrees, "says yes", group="part", changes=False)
