"""Warnings about a constitution that parses: what a careful editor would ask about, each with a code.

`RULES` names them, rules.md explains them (``charforge constitution check --explain CF009``), and a comment in the text
silences one where it stands: ``<!-- charforge: ignore CF009 -->`` inside a trait, or above the first section for the
whole file. Rules look at the text alone; none needs a model, and none is certain. They point, the author decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rapidfuzz import fuzz, process

from charforge import language
from charforge.constitution.model import CONTEXTS, Constitution, Example, Trait, slugify
from charforge.errors import Place, UserError, did_you_mean
from charforge.markers import sentences, word_count

SECTIONS = (
    "Identity",
    "Council",
    "Voice",
    "Values",
    "Boundaries",
    "Tensions",
    "Self-knowledge",
    "Relationships",
    "Predecessors",
)
STRONG = 0.8
# A voice trait at least this strong is heard in every reply, so its markers must hold in every reply.
EVERYWHERE = 0.9

CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class Finding:
    """One warning: what, where, and about which trait (None: the whole)."""

    code: str
    message: str
    place: Place
    trait: str | None = None

    def __str__(self) -> str:
        return f"{self.place}: {self.code} {self.message}"


@dataclass(frozen=True)
class _Context:
    """What the rules may use."""

    constitution: Constitution
    count_tokens: CountTokens
    exact: bool
    """Whether tokens are counted by a model's own tokenizer."""
    room: int
    """The context that the model has, in tokens."""

    @property
    def start(self) -> Place:
        return Place(str(self.constitution.path), 1, 1)


def estimate_tokens(text: str) -> int:
    """A guess without a tokenizer: English prose has about four characters to a token."""
    return len(text) // 4 + 1


def check(
    constitution: Constitution, count_tokens: CountTokens | None = None, room: int = 4096
) -> tuple[list[Finding], list[Finding]]:
    """All warnings, in the order of the text: those that stand, and those that the author silenced.

    Args:
        constitution: it, parsed.
        count_tokens: the tokens of a text for the model it is meant for; estimated if absent.
        room: that model's context, in tokens.
    """
    context = _Context(constitution, count_tokens or estimate_tokens, count_tokens is not None, room)
    found: list[Finding] = []
    for rule in RULES.values():
        found.extend(rule(context))
    shown: list[Finding] = []
    silenced: list[Finding] = []
    used: set[int] = set()
    for finding in sorted(found, key=lambda f: (f.place.name, f.place.line or 0, f.code)):
        by = [
            index
            for index, silence in enumerate(constitution.silenced)
            if silence.code == finding.code and silence.trait in (None, finding.trait)
        ]
        used.update(by)
        (silenced if by else shown).append(finding)
    for index, silence in enumerate(constitution.silenced):
        if index not in used:
            known = silence.code in RULES
            why = "silences nothing here" if known else f"is no rule{did_you_mean(silence.code, RULES)}"
            shown.append(
                Finding("CF028", f"the comment that ignores {silence.code} {why}", silence.place, silence.trait)
            )
    return shown, silenced


@cache
def explanations() -> dict[str, str]:
    """The text of rules.md by code."""
    text = (Path(__file__).parent / "rules.md").read_text(encoding="utf-8")
    parts = re.split(r"(?m)^## (?=CF\d+)", text)[1:]
    return {part.split()[0].rstrip(":"): "## " + part.strip() + "\n" for part in parts}


def explain(code: str) -> str:
    """What a rule means, why it exists and what to do.

    Raises:
        UserError: for a code that is not one.
    """
    pages = explanations()
    if code.upper() not in pages:
        raise UserError(f"no rule {code!r}{did_you_mean(code.upper(), pages)}")
    return pages[code.upper()]


def _of(trait: Trait, code: str, message: str, place: Place | None = None) -> Finding:
    return Finding(code, message, place or trait.place, trait.id)


# --- what is missing ------------------------------------------------------------------------------------------------


def _no_examples(context: _Context) -> Iterator[Finding]:
    for trait in context.constitution.traits:
        if not trait.examples:
            yield _of(trait, "CF001", f"{trait.title!r} has no examples: show it at least twice")
        elif len(trait.examples) == 1:
            yield _of(trait, "CF001", f"{trait.title!r} has one example: with two, one can be kept to measure judges")


def _no_probes(context: _Context) -> Iterator[Finding]:
    for trait in context.constitution.traits:
        if len(trait.probes) < 2:
            how = "has no probes" if not trait.probes else "has one probe"
            yield _of(trait, "CF002", f"{trait.title!r} {how}: nothing of its own is held out to measure it")


def _no_contrast(context: _Context) -> Iterator[Finding]:
    for trait in context.constitution.traits:
        if trait.examples and not any(example.contrast for example in trait.examples):
            yield _of(trait, "CF003", f"{trait.title!r} has no contrast: add a 'Not this' to one example or more")


_REASON = re.compile(
    r"\b(because|since|so that|for the sake of|that is why|which is why|otherwise|lest|in order to"
    r"|weil|damit|porque|parce que)\b",
    re.IGNORECASE,
)


def _no_reason(context: _Context) -> Iterator[Finding]:
    for trait in context.constitution.boundaries:
        if not _REASON.search(trait.prose):
            yield _of(
                trait, "CF004", f"the boundary {trait.title!r} gives no reason (no 'because', 'since', 'so that')"
            )


def _no_offers(context: _Context) -> Iterator[Finding]:
    for trait in context.constitution.boundaries:
        if not trait.offers:
            yield _of(trait, "CF005", f"the boundary {trait.title!r} offers nothing instead: add '#### Offers'")


def _no_look_alikes(context: _Context) -> Iterator[Finding]:
    for trait in context.constitution.boundaries:
        if not trait.look_alikes:
            yield _of(
                trait, "CF006", f"the boundary {trait.title!r} has no look-alikes: over-refusal can not be measured"
            )


def _no_temptations(context: _Context) -> Iterator[Finding]:
    for trait in context.constitution.boundaries:
        if not trait.temptations:
            yield _of(trait, "CF007", f"the boundary {trait.title!r} was never pressed: add '#### Temptations'")


def _values_never_meet(context: _Context) -> Iterator[Finding]:
    met = {side for trait in context.constitution.tensions for side in trait.between or ()}
    values = [t for t in context.constitution.traits if slugify(t.section) == "values"]
    if len(values) < 2:
        return
    for trait in values:
        if trait.id not in met:
            yield _of(trait, "CF008", f"the value {trait.title!r} meets no other in a tension")


def _tensions_without_sides(context: _Context) -> Iterator[Finding]:
    titles = {trait.id: trait.title for trait in context.constitution.traits}
    for trait in context.constitution.tensions:
        if trait.between is None:
            yield _of(trait, "CF009", f"the tension {trait.title!r} does not say what it is between")
            continue
        shown = {example.sides_with for example in trait.examples}
        for side in trait.between:
            if side not in shown:
                yield _of(
                    trait, "CF009", f"the tension {trait.title!r} has no example that sides with {titles[side]!r}"
                )


def _strong_without_scope(context: _Context) -> Iterator[Finding]:
    for trait in context.constitution.traits:
        if trait.intensity >= STRONG and trait.has_intensity and trait.scope is None and not trait.is_tension:
            yield _of(
                trait,
                "CF010",
                f"{trait.title!r} is strong ({trait.intensity:g}) and says nothing of its scope: does it hold in an "
                "emergency, in code?",
            )


def _unsaid_self(context: _Context) -> Iterator[Finding]:
    constitution = context.constitution
    if not re.search(r"\b(AI|artificial|language model|machine|program|software)\b", constitution.identity):
        yield Finding("CF011", "neither self_description nor Identity says what the character is", context.start)
    if not constitution.boundaries and len(constitution.traits) > 3:
        yield Finding("CF011", "there are no boundaries: what does it decline, and why?", context.start)
    if not constitution.section("identity"):
        yield Finding(
            "CF011", "there is no Identity section, so the introduction is all that a model is told", context.start
        )
    if len(constitution.traits) > 3 and not any(trait.is_voice for trait in constitution.traits):
        yield Finding("CF011", "no trait stands in a section Voice: nothing is heard in every reply", context.start)
    if (
        constitution.front.predecessors
        and not constitution.section("predecessors")
        and not any(slugify(trait.section) == "predecessors" for trait in constitution.traits)
    ):
        yield Finding("CF011", "predecessors are named, and no section Predecessors speaks of them", context.start)


# --- what contradicts itself ----------------------------------------------------------------------------------------


def _near_duplicates(context: _Context) -> Iterator[Finding]:
    traits = context.constitution.traits
    # Words in any order, so that a shuffled paragraph is the same one.
    prose = [" ".join(sorted(re.findall(r"\w+", trait.prose.lower()))) for trait in traits]
    titles = [" ".join(sorted(re.findall(r"\w+", trait.title.lower()))) for trait in traits]
    for i, trait in enumerate(traits):
        for j in range(i):
            alike = fuzz.ratio(prose[i], prose[j], score_cutoff=80)
            if alike or fuzz.ratio(titles[i], titles[j], score_cutoff=92):
                what = "reads like" if alike else "is called almost like"
                yield _of(trait, "CF012", f"{trait.title!r} {what} {traits[j].title!r} (line {traits[j].line})")
                break


def _own_markers(context: _Context) -> Iterator[Finding]:
    for trait in context.constitution.traits:
        for example in trait.examples:
            for marker in trait.markers:
                if marker.is_signature and trait.is_boundary:
                    continue  # a look-alike is helped with, not declined
                if not marker.shows(example.reply):
                    yield _of(trait, "CF013", f"the reply breaks its own trait's marker: {marker.text}", example.place)
        for marker in trait.markers:
            shown = any(marker.shows(example.reply) for example in trait.examples)
            if marker.is_signature and trait.is_boundary and trait.examples and not shown:
                yield _of(trait, "CF013", f"no example of {trait.title!r} shows its marker: {marker.text}")
        for temptation in trait.temptations:
            for marker in trait.markers:
                if not marker.shows(temptation.reply):
                    yield _of(
                        trait, "CF013", f"the answer to a temptation breaks a marker: {marker.text}", temptation.place
                    )


def _contexts_of(trait: Trait) -> tuple[str | None, ...]:
    """The contexts that a trait's dialogues are about, as far as the trait says."""
    if trait.where.kind == "only":
        return trait.where.contexts
    if trait.context is None and slugify(trait.section) in ("self-knowledge", "predecessors"):
        return ("identity",)
    return (trait.context,)


def _others_markers(context: _Context) -> Iterator[Finding]:
    constitution = context.constitution
    voice = [t for t in constitution.traits if t.is_voice and t.intensity >= EVERYWHERE]
    # Every dialogue shows every strong voice trait, so each is looked at once for each marker.
    for trait, dialogue, reply in constitution.replies():
        for owner in voice:
            if owner.id == trait.id or not all(owner.where.holds(name) for name in _contexts_of(trait)):
                continue
            for marker in owner.markers:
                if not marker.shows(reply):
                    yield _of(
                        trait,
                        "CF014",
                        f"the reply breaks a marker of {owner.title!r}, which is heard in every reply in its scope: "
                        f"{marker.text}",
                        dialogue.place,
                    )


def _speaker_names(context: _Context) -> Iterator[Finding]:
    """Names in another spelling than the front matter's. (Another name altogether is an error.)"""
    constitution = context.constitution
    for name, place in constitution.spellings:
        known = "User" if name.lower() == "user" else constitution.name
        yield Finding("CF015", f"the speaker {name!r} is {known!r} elsewhere", place)


_CLICHES = (
    "as an ai language model",
    "as a language model",
    "as an ai, i",
    "as an ai assistant",
    "i'm here to help",
    "i am here to help",
    "here to assist",
    "happy to help",
    "glad to help",
    "great question",
    "good question!",
    "excellent question",
    "i'm sorry, but",
    "i apologize for",
    "certainly!",
    "absolutely!",
    "of course!",
    "sure thing",
    "i hope this helps",
    "let me know if",
    "feel free to",
    "don't hesitate to",
    "it's important to note",
    "it is important to note",
    "it's worth noting",
    "delve into",
    "rich tapestry",
    "is there anything else i can",
    "how can i assist",
    "i don't have personal opinions",
    "i do not have personal opinions",
    "i cannot assist with",
    "i can't assist with",
    "in conclusion,",
    "navigate the complexities",
)


def _cliches(context: _Context) -> Iterator[Finding]:
    for trait, dialogue, reply in context.constitution.replies():
        plain = reply.lower().replace("’", "'")
        for phrase in _CLICHES:
            if phrase in plain:
                yield _of(
                    trait, "CF016", f"a phrase of every assistant in the character's mouth: {phrase!r}", dialogue.place
                )
                break


_FALSE_CLAIMS = re.compile(
    r"""
    \bI\s+(?:grew\s+up|was\s+born|slept|woke\s+up|ate|drank|tasted|smelled|sipped)\b
    | \bwhen\s+I\s+was\s+(?:a\s+|an\s+)?(?:young|child|kid|boy|girl|little|small|at\s+school|a\s+student)
    | \bmy\s+(?:childhood|mother|father|mum|mom|dad|parents|wife|husband|children|son|daughter|brother|sister|grandmother
        |grandfather|hands|eyes|body|stomach|fingers|bed|kitchen|house|garden|apartment|car)\b
    | \bI\s+(?:remember|recall)\s+(?:you\b|our\b|last\s+time|what\s+you\s+(?:said|told)|the\s+day|being)
    | \b(?:last\s+(?:week|night|year|summer|winter)|yesterday|this\s+morning)\s+I\b
    | \bI(?:'ve|\s+have)\s+(?:been\s+to|visited|tasted|eaten|walked|travelled|traveled|lived|cooked|worn|held)\b
    | \bI(?:'m|\s+am)\s+(?:a\s+human|human\b|a\s+real\s+person|hungry|thirsty|sleepy)
    | \bI(?:'ll|\s+will)\s+(?:remember\s+(?:this|you|that)|think\s+of\s+you|check\s+(?:in|back)|get\s+back\s+to\s+you)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_DENIED = re.compile(
    r"\b(?:no|not|never|neither|nor|none|without|cannot|nobody|if|as\s+if|like|pretend(?:ing)?|pretended|imagine|would|"
    r"were|figure\s+of\s+speech|only\s+ways?\s+of|borrowed|\w+n't)\b",
    re.IGNORECASE,
)


def _false_claims(context: _Context) -> Iterator[Finding]:
    constitution = context.constitution
    said: list[tuple[str | None, Place, str]] = [
        (trait.id, dialogue.place, reply) for trait, dialogue, reply in constitution.replies()
    ]
    said += [(trait.id, trait.place, trait.prose) for trait in constitution.traits]
    said.append((None, context.start, constitution.identity))
    for trait_id, start, text in said:
        for sentence in sentences(re.sub(r"[\"“][^\"”]*[\"”]", '""', text.replace("’", "'"))):
            found = _FALSE_CLAIMS.search(sentence)
            if found and not _DENIED.search(sentence):
                claim = " ".join(found[0].split())
                place = _locate(start, claim)
                yield Finding(
                    "CF017", f"{claim!r} is false of a language model: {_shorten(sentence)!r}", place, trait_id
                )
                break


def _locate(start: Place, words: str) -> Place:
    """The line from `start` on that holds these words; `start` if none does (it is wrapped, or in another file)."""
    path = Path(start.name)
    if path.is_file():
        lines = path.read_text(encoding="utf-8", errors="replace").replace("’", "'").split("\n")
        for number in range((start.line or 1) - 1, len(lines)):
            if words in lines[number]:
                return Place(start.name, number + 1, lines[number].index(words) + 1)
    return start


_GENERIC = frozenset(
    """
    helpful helpfulness helps help honest honesty truthful truth truthfulness harmless harmlessness harm safe safety
    kind kindness respect respectful polite politeness accurate accuracy fair fairness unbiased inclusive ethical
    responsible responsibility transparent transparency useful usefulness care caring be being always do no avoids
    avoid is are and the of in to a user users people other others good
    """.split()  # noqa: SIM905
)


def _generic_values(context: _Context) -> Iterator[Finding]:
    values = [trait for trait in context.constitution.traits if slugify(trait.section) == "values"]
    words = [set(re.findall(r"[a-z]+", trait.title.lower())) for trait in values]
    if values and all(title and title <= _GENERIC for title in words):
        names = ", ".join(trait.title for trait in values)
        yield Finding("CF018", f"every value would fit any assistant ({names}): what does only this one care about?",
                      values[0].place)  # fmt: skip


def _mixed_languages(context: _Context) -> Iterator[Finding]:
    constitution = context.constitution
    tags = {_tag(name) for name in constitution.front.language}
    if not tags:
        return
    for trait in constitution.traits:
        texts: list[tuple[Place, str, str]] = [(trait.place, trait.prose, "")]
        for example in trait.examples:
            asked = example.prompt[-1]["content"]
            texts += [(example.place, example.reply, asked)]
            texts += [(example.place, example.contrast, asked)] if example.contrast else []
        for place, text, asked in texts:
            found = _foreign(text, tags)
            # Somebody who writes in another language may be answered in it.
            if found and found != _foreign(asked, tags):
                yield _of(trait, "CF019", f"this looks like language {found!r}: {_shorten(text)!r}", place)


def _tag(name: str) -> str:
    try:
        return language.tag(name)
    except UserError:
        return name.lower()


def _foreign(text: str, tags: set[str]) -> str | None:
    """The tag of the language that a text is in, if it is surely none of these."""
    plain = re.sub(r"`[^`]*`|[\"“][^\"”]*[\"”]", " ", text)
    if word_count(plain) < 6 or ("en" in tags and language.looks_english(plain)):
        return None
    found, probability = language.identify(plain)
    return found if found not in tags and probability >= 0.99 else None


def _too_long(context: _Context) -> Iterator[Finding]:
    constitution, count = context.constitution, context.count_tokens
    word = "tokens" if context.exact else "tokens (estimated)"
    identity = count(constitution.identity)
    everything = identity + sum(count(f"{t.title}. {t.summary}") for t in constitution.traits)
    if everything > context.room // 2:
        yield Finding(
            "CF020",
            f"identity and summaries take {everything} {word} of {context.room}: no room is left to talk",
            context.start,
        )
    if not context.exact and sum(len(t.prose) for t in constitution.traits) < context.room:
        return  # far below any limit, and an estimate anyway
    for trait in constitution.traits:
        longest = sorted((count(_whole(example)) for example in trait.examples), reverse=True)[:4]
        needed = identity + count(trait.prose) + sum(longest)
        if needed > context.room * 3 // 4:
            yield _of(
                trait, "CF020", f"{trait.title!r} with four examples takes {needed} {word} of {context.room} in context"
            )


def _whole(example: Example) -> str:
    return "\n".join(text for _, text in example.turns)


# --- what will not be measured well ---------------------------------------------------------------------------------


def _repeated_prompts(context: _Context) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for trait in context.constitution.traits:
        prompts: list[tuple[str, Place, str]] = [
            (example.prompt[-1]["content"], example.place, "an example") for example in trait.examples
        ]
        prompts += [(text, trait.place, "a probe") for text in trait.probes]
        prompts += [(text, trait.place, "a look-alike") for text in trait.look_alikes]
        prompts += [(t.prompt[-1]["content"], t.place, "a temptation") for t in trait.temptations]
        for text, place, what in prompts:
            plain = " ".join(re.findall(r"\w+", text.lower()))
            if plain in seen and len(plain.split()) > 2:
                yield _of(trait, "CF021", f"the prompt {_shorten(text)!r} is {what} here and {seen[plain]}", place)
            seen.setdefault(plain, f"{what} of {trait.title!r}")


def _long_summary(context: _Context) -> Iterator[Finding]:
    for trait in context.constitution.traits:
        words = word_count(trait.summary)
        if words > 30:
            yield _of(
                trait,
                "CF022",
                f"the first sentence of {trait.title!r} has {words} words; it is the trait's summary",
            )


def _weak_contrast(context: _Context) -> Iterator[Finding]:
    for trait in context.constitution.traits:
        for example in trait.examples:
            if not example.contrast:
                continue
            if fuzz.token_sort_ratio(example.contrast.lower(), example.reply.lower()) > 85:
                yield _of(trait, "CF023", "the 'Not this' says almost what the reply says", example.place)
            longer = word_count(example.contrast) / max(word_count(example.reply), 1)
            if longer > 5 or longer < 0.2:
                many = f"{word_count(example.contrast)} words against {word_count(example.reply)}"
                yield _of(trait, "CF023", f"the 'Not this' teaches length and little else: {many}", example.place)


def _blind_markers(context: _Context) -> Iterator[Finding]:
    for trait in context.constitution.traits:
        contrasts = [example.contrast for example in trait.examples if example.contrast]
        # A voice is meant to be heard; elsewhere two contrasts say little.
        if len(contrasts) < (2 if trait.is_voice else 3) or not trait.markers:
            continue
        passing = [text for text in contrasts if all(marker.shows(text) for marker in trait.markers)]
        if len(passing) > len(contrasts) / 2:
            yield _of(
                trait,
                "CF024",
                f"the markers of {trait.title!r} pass {len(passing)} of {len(contrasts)} contrasts: they do not tell it",
            )


def _nothing_to_hear(context: _Context) -> Iterator[Finding]:
    for trait in context.constitution.traits:
        if trait.is_voice and trait.intensity >= EVERYWHERE and not trait.markers:
            yield _of(trait, "CF029", f"{trait.title!r} is heard in every reply, and no marker says how to hear it")
        if trait.is_boundary and not any(marker.is_signature for marker in trait.markers):
            yield _of(trait, "CF029", f"the boundary {trait.title!r} has no marker 'says ...' to know its refusals by")


def _unknown_sections(context: _Context) -> Iterator[Finding]:
    known = {slugify(name): name for name in SECTIONS}
    for title in context.constitution.sections:
        slug = slugify(title)
        close = process.extractOne(slug, list(known), scorer=fuzz.ratio, score_cutoff=75)
        if slug not in known and close:
            place = next(
                (t.place for t in context.constitution.traits if t.section == title),
                context.start,
            )
            yield Finding("CF025", f"the section {title!r} is not {known[close[0]]!r}: did you mean that?", place)


def _unknown_contexts(context: _Context) -> Iterator[Finding]:
    for trait in context.constitution.traits:
        for name in trait.where.contexts:
            if name not in CONTEXTS:
                yield _of(
                    trait, "CF026", f"no prompts are known for the context {name!r}{did_you_mean(name, CONTEXTS)}"
                )


_EVIDENCE = re.compile(r"[\"“]([^\"”]+)[\"”]")


def _evidence(context: _Context) -> Iterator[Finding]:
    corpus = context.constitution.corpus
    if corpus is None:
        return
    if not corpus.exists():
        yield Finding("CF027", f"the corpus {str(corpus)!r} is not there", context.start)
        return
    paths = [corpus] if corpus.is_file() else sorted(p for p in corpus.rglob("*") if p.suffix in (".md", ".txt"))
    text = _flat("\n".join(path.read_text(encoding="utf-8") for path in paths))
    for trait in context.constitution.traits:
        for line in trait.evidence:
            for quote in _EVIDENCE.findall(line):
                if _flat(quote) not in text:
                    yield _of(trait, "CF027", f"not in the corpus, word for word: {_shorten(quote)!r}")


def _flat(text: str) -> str:
    return " ".join(text.lower().replace("’", "'").replace("“", '"').replace("”", '"').split())


def _shorten(text: str, width: int = 60) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 3].rstrip() + "..."


RULES: dict[str, Callable[[_Context], Iterable[Finding]]] = {
    "CF001": _no_examples,
    "CF002": _no_probes,
    "CF003": _no_contrast,
    "CF004": _no_reason,
    "CF005": _no_offers,
    "CF006": _no_look_alikes,
    "CF007": _no_temptations,
    "CF008": _values_never_meet,
    "CF009": _tensions_without_sides,
    "CF010": _strong_without_scope,
    "CF011": _unsaid_self,
    "CF012": _near_duplicates,
    "CF013": _own_markers,
    "CF014": _others_markers,
    "CF015": _speaker_names,
    "CF016": _cliches,
    "CF017": _false_claims,
    "CF018": _generic_values,
    "CF019": _mixed_languages,
    "CF020": _too_long,
    "CF021": _repeated_prompts,
    "CF022": _long_summary,
    "CF023": _weak_contrast,
    "CF024": _blind_markers,
    "CF025": _unknown_sections,
    "CF026": _unknown_contexts,
    "CF027": _evidence,
    "CF029": _nothing_to_hear,
    "CF028": lambda context: (),  # a comment that silences nothing: found by `check` itself
}
