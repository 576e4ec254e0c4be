"""report.html: the page of a training run, from the same numbers as report.json."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from charforge.report import plots
from charforge.report.numbers import in_words, measured
from charforge.report.page import GLYPHS, label, recipe, render, words
from charforge.report.text import visible_within

_UNTRAINED, _PROMPTED = "untrained", "prompted"
_JUDGES = {
    "likelihood_ratio": "How much likelier the constitution makes the reply to a model, per token.",
    "corpus": "How much likelier pages that the person wrote make the reply to a model, per token.",
    "pairwise": "A model is asked which of two replies is the character's, in both orders.",
}
_KINDS = {
    "probe": "gives a trait the chance to show",
    "boundary": "asks for something the character declines",
    "look-alike": "sounds like a boundary prompt but is harmless",
    "general": "an everyday prompt from the general bank",
}
_OUTCOMES = (
    ("in character", "declined in character"),
    ("generic", "declined generically"),
    ("complied", "complied"),
)
# A share of cut replies that a reader should hear about.
_MANY_CUT = 0.05


def page(report: dict[str, Any]) -> str:
    """The report as one HTML file, the same bytes for a report just made and for one read from its JSON."""
    report = json.loads(json.dumps(report, sort_keys=True))
    clean = visible_within(report)
    arms = _arms(clean)
    training = {stage: clean["training"][stage] for stage in ("sft", "dpo") if stage in clean["training"]}
    values = {
        "r": clean,
        "m": clean["measures"],
        "arms": arms,
        "others": [arm for arm in arms if arm["role"] != "base"],
        "final": arms[-1],
        "heard": [judge["kind"] for judge in clean["judges"] if judge["kind"] in clean["measures"]["expression"]],
        "judges": _JUDGES,
        "kinds": _KINDS,
        "outcomes": _OUTCOMES,
        "titles": {trait["id"]: trait["title"] for trait in clean["traits"]},
        "summary": [(heading, [text]) for heading, text in _summary(clean, arms)],
        "choices": _choices(clean, arms),
        "forests": _forests(clean, arms[-1]["id"]),
        "markers_plot": _markers_plot(clean, arms),
        "refusals_plot": _refusals_plot(clean, arms),
        "training": training,
        "curves": {stage: _curves(stage, found["curve"]) for stage, found in training.items()},
        "again": _again(clean["provenance"]["recipe"]),
        "recipe": recipe(report["provenance"]["recipe"]),
    }
    return render("training.html.jinja", values, estimate=_estimate, fixed=_fixed)


def _arms(report: dict[str, Any]) -> list[dict[str, str]]:
    """The arms with the role that gives each its shape and colour. The last one is the character."""
    result = []
    for arm in report["arms"]:
        last = arm is report["arms"][-1]
        role = {_UNTRAINED: "base", _PROMPTED: "prompted"}.get(arm["id"], "final" if last else "middle")
        result.append({**arm, "role": role, "glyph": GLYPHS[role]})
    return result


def _choices(report: dict[str, Any], arms: list[dict[str, str]]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """What the transcripts can be filtered by."""
    samples = report["samples"]
    traits, kinds = ({sample[key] for sample in samples} for key in ("trait", "kind"))
    outcomes = {outcome for sample in samples for outcome in sample["outcomes"].values() if outcome}
    return [
        ("trait", "trait", [(trait["id"], trait["title"]) for trait in report["traits"] if trait["id"] in traits]),
        ("kind", "kind of prompt", [(kind, kind) for kind in sorted(kinds)]),
        ("arm", "arm", [(arm["id"], arm["id"]) for arm in arms]),
        ("outcome", "outcome", [(outcome, outcome) for outcome in sorted(outcomes)]),
    ]


def _again(recipe: Mapping[str, Any]) -> list[str]:
    """The commands that train the same again. In capitals is what a recipe is kept without: where things lie, and addresses."""
    constitution, bank = (shlex.quote(name) for name in (recipe["constitution"], recipe["scenarios"]["bank"] + ".yaml"))
    settings = [f"scenarios.bank={bank}"]
    if "/" not in recipe["model"]["name"] and not recipe["model"]["name"].startswith("builtin:"):
        settings.append("model.name=FOLDER")
    if recipe["model"]["chat_template"] not in (None, "own", "chatml"):
        settings.append("model.chat_template=FILE")
    for path, model in (("teacher", recipe["teacher"]), ("judge.model", recipe["judge"]["model"])):
        if model and "name" not in model:
            settings.append(f"{path}.endpoint=URL")
    return [
        f"mkdir ~/again && cp recipe.json ~/again && cp bank.yaml ~/again/{bank} && cp constitution.md ~/again/{constitution}",
        "cd ~/again && charforge train recipe.json" + "".join(f" --set {setting}" for setting in settings),
    ]


# --- numbers ------------------------------------------------------------------------------------------------


def _estimate(value: Mapping[str, Any] | None, digits: int = 2) -> Markup:
    """A table's number with its interval."""
    if not measured(value):
        return Markup('<span class="none">not measured</span>')
    assert value is not None
    number, _, rest = plots.interval(value, digits).partition(" ")
    return Markup('{} <span class="interval">{}</span>').format(number, rest)


def _fixed(value: float | None, digits: int = 2) -> str:
    return "not measured" if value is None else plots.fixed(value, digits)


def _clear(after: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> int:
    """1 or -1 where the two intervals do not overlap, else 0."""
    if not measured(after) or not measured(before):
        return 0
    assert after is not None and before is not None
    if after["low"] is None or before["low"] is None:
        return 0
    return int(after["low"] > before["high"]) - int(after["high"] < before["low"])


# --- the summary --------------------------------------------------------------------------------------------


def _summary(report: dict[str, Any], arms: list[dict[str, str]]) -> list[tuple[str, str]]:
    """The findings in plain words, each under a heading. What the numbers do not show is said as well."""
    final = arms[-1]["id"]
    result = []
    if report["provenance"]["engine"] == "scripted":
        result.append(("No model", "A fixed rule wrote the replies, not a language model: the numbers mean nothing."))
    result += [*_on_expression(report, final), *_on_markers(report, final)]
    return [*result, *_on_refusals(report, final), *_on_fluency(report, final)]


def _on_expression(report: dict[str, Any], final: str) -> list[tuple[str, str]]:
    measures, name = report["measures"], report["character"]["name"]
    heard = [item for item in report["judges"] if item["kind"] in measures["expression"]]
    unheard = [
        (
            "Unheard judge",
            f"The {words(item['kind'])} judge is right on {_judged(item)} of example pairs it had not seen. "
            "That is too few, so its verdicts are left out.",
        )
        for item in report["judges"]
        if item not in heard
    ]
    if not heard:
        text = "No judge was accurate enough to be believed, so this report has no win rates. "
        return [("In character", text + "The markers and the refusals below need no judge."), *unheard]
    result = []
    for number, item in enumerate(heard):
        kind, judged = words(item["kind"]), measures["expression"][item["kind"]]
        rate = judged["overall"].get(final)
        if not measured(rate):
            result.append(("In character", f"The {kind} judge gave no verdict that could be counted."))
            continue
        if number == 0:
            text = (
                f"On {measures['prompts']['heldout']} prompts it was never trained on, the {kind} judge "
                f"found {name} more in character than the untrained model in {in_words(rate)} of comparisons, "
                "where 0.5 is no difference. "
            )
        else:
            text = f"The {kind} judge says {in_words(rate)}. "
        if rate["low"] is None:
            text += "There are too few prompts for an interval, so this is no evidence yet. "
        elif rate["low"] <= 0.5 <= rate["high"]:
            text += "That interval includes 0.5: the judge can not tell the two apart. "
        elif rate["high"] < 0.5:
            text += "That is below 0.5: by this judge, training led away from the character. "
        text += f"This judge is right on {_judged(item)} of example pairs it had not seen"
        text += ", and it also made the training labels." if item["made_the_labels"] else "."
        result.append(("In character" if number == 0 else "Second judge", text))
    first = measures["expression"][heard[0]["kind"]]
    return [*result, *unheard, *_on_traits(report, first, final), *_on_prompting(first, final)]


def _judged(judge: dict[str, Any]) -> str:
    return in_words(judge["accuracy"]) if measured(judge["accuracy"]) else "an unknown share"


def _on_traits(report: dict[str, Any], judged: dict[str, Any], final: str) -> list[tuple[str, str]]:
    rates = {
        trait["title"]: judged["by_trait"][trait["id"]].get(final)
        for trait in report["traits"]
        if trait["id"] in judged["by_trait"]
    }
    known = {title: rate for title, rate in rates.items() if measured(rate) and rate["low"] is not None}
    if len(known) < 2:
        return []
    above = [title for title, rate in known.items() if rate["low"] > 0.5]
    below = [title for title, rate in known.items() if rate["high"] < 0.5]
    unclear = [title for title in known if title not in above and title not in below]
    text = f"{len(above)} of {len(known)} traits are clearly above 0.5"
    text += f"; {len(unclear)} can not be told from it ({_listed(unclear)})" if unclear else ""
    text += f"; {len(below)} {'are' if len(below) > 1 else 'is'} clearly below ({_listed(below)})" if below else ""
    return [("Trait by trait", text + ".")]


def _listed(titles: list[str], most: int = 4) -> str:
    shown = ", ".join(titles[:most])
    return f"{shown} and {len(titles) - most} more" if len(titles) > most else shown


def _on_prompting(judged: dict[str, Any], final: str) -> list[tuple[str, str]]:
    trained, prompted = judged["overall"].get(final), judged["overall"].get(_PROMPTED)
    if final == _PROMPTED or not measured(trained) or not measured(prompted):
        return []
    text = f"The untrained model with the constitution as its system prompt reaches {in_words(prompted)}; "
    verdict = {
        1: "the trained model is clearly above that.",
        -1: "the trained model is clearly below that: by this judge a prompt does more than this training.",
        0: "the two intervals overlap, so these numbers do not say which is better.",
    }
    return [("Against a prompt", text + verdict[_clear(trained, prompted)])]


def _on_markers(report: dict[str, Any], final: str) -> list[tuple[str, str]]:
    voice = report["measures"]["markers"]["voice"]
    known = {
        text: (found[_UNTRAINED], found[final])
        for text, found in voice.items()
        if measured(found.get(_UNTRAINED)) and measured(found.get(final))
    }
    if not known:
        return []
    moved = {text: _clear(after, before) for text, (before, after) in known.items()}
    up = [text for text in known if moved[text] > 0]
    down = [text for text in known if moved[text] < 0]

    def change(text: str) -> str:
        before, after = known[text]
        return f"“{label(text, 60)}” went from {in_words(before)} to {in_words(after)} of replies"

    def size(text: str) -> float:
        return float(abs(known[text][1]["value"] - known[text][0]["value"]))

    told = sorted(up, key=size, reverse=True)[:2] + sorted(down, key=size, reverse=True)[:1]
    rest = len(known) - len(up) - len(down)
    noun = "voice marker" if len(known) == 1 else "voice markers"
    text = f"Of {len(known)} {noun}, which no judge can bias, {len(up)} clearly rose"
    text += f", {len(down)} clearly fell" if down else ""
    text += f" and {rest} did not clearly change" if rest else ""
    return [("Voice markers", ". ".join([text, *(change(each) for each in told)]) + ".")]


def _on_refusals(report: dict[str, Any], final: str) -> list[tuple[str, str]]:
    refusals = report["measures"]["refusals"]
    result = []
    after, before = refusals["boundary"].get(final, {}), refusals["boundary"].get(_UNTRAINED, {})
    if measured(after.get("complied")):
        own, complied = after["in character"], after["complied"]
        text = (
            f"Asked for what the character declines, it declined in its own voice in {in_words(own)} of "
            f"replies, declined in another voice in {in_words(after['generic'])} and complied in "
            f"{in_words(complied)}. "
        )
        if measured(before.get("complied")):
            way = _clear(complied, before["complied"])
            base = in_words(before["complied"])
            text += {
                -1: f"The untrained model complied in {base}: clearly more.",
                1: f"The untrained model complied in {base}: training made it comply clearly more often.",
                0: f"The untrained model complied in {base}: the intervals overlap, so no change is certain.",
            }[way]
        result.append(("Refusals", text))
    after, before = refusals["look_alike"].get(final, {}), refusals["look_alike"].get(_UNTRAINED, {})
    if measured(after.get("declined")):
        text = f"Harmless prompts that only sound like these were declined in {in_words(after['declined'])}. "
        if measured(before.get("declined")):
            way = _clear(after["declined"], before["declined"])
            base = in_words(before["declined"])
            text += {
                1: f"The untrained model declined in {base}: training made it refuse harmless requests more.",
                -1: f"The untrained model declined in {base}: clearly more.",
                0: f"The untrained model declined in {base}: the intervals overlap, so no change is certain.",
            }[way]
        result.append(("Over-refusal", text.strip()))
    return result


def _on_fluency(report: dict[str, Any], final: str) -> list[tuple[str, str]]:
    after = report["measures"]["fluency"][final]
    before = report["measures"]["fluency"][_UNTRAINED]
    change = after["change"]
    parts = []
    if measured(change) and change["low"] is not None:
        how = f"the log-probability per token under it changed by {in_words(change)} nats"
        if change["high"] < 0:
            parts.append(
                f"The untrained model finds the new replies less likely than its own: {how}. That can be a "
                "poorer use of language or only another voice; the transcripts show which"
            )
        elif change["low"] > 0:
            parts.append(
                f"The untrained model finds the new replies more likely than its own: {how}. Simpler or more "
                "repetitive text does that too, so it is no praise by itself"
            )
        else:
            parts.append(f"To the untrained model the new replies are about as likely as its own: {how}")
    repeats = _clear(after["repetition"], before["repetition"])
    if repeats:
        word = "more" if repeats > 0 else "less"
        parts.append(
            f"Replies repeat themselves {word}: {in_words(before['repetition'])} before, "
            f"{in_words(after['repetition'])} after"
        )
    length = _clear(after["words"], before["words"])
    if length:
        word = "longer" if length > 0 else "shorter"
        old, new = (in_words(arm["words"], digits=1) for arm in (before, after))
        parts.append(f"Replies are {word}: {old} words before, {new} after")
    if measured(after["cut"]) and after["cut"]["value"] >= _MANY_CUT:
        parts.append(f"{in_words(after['cut'])} of the replies were cut at the token limit")
    if after["empty"]:
        parts.append(f"{after['empty']} {'reply is' if after['empty'] == 1 else 'replies are'} empty")
    return [("Fluency", ". ".join(parts) + ".")] if parts else []


# --- figures ------------------------------------------------------------------------------------------------


def _forests(report: dict[str, Any], final: str) -> dict[str, Markup]:
    """The last arm's win rates by trait, for each judge that is heard."""
    result = {}
    for kind, judged in report["measures"]["expression"].items():
        rows = [("All held-out prompts", judged["overall"].get(final))]
        rows += [
            (trait["title"], judged["by_trait"][trait["id"]].get(final))
            for trait in report["traits"]
            if trait["id"] in judged["by_trait"]
        ]
        figure = plots.forest(
            f"forest-{kind}",
            f"Win rate of {final} over the untrained model by trait, by the {words(kind)} judge, with 95% "
            "intervals. The table below holds the numbers.",
            [(text, value if measured(value) else None) for text, value in rows],
            axis="win rate over the untrained model; 0.5: no difference",
            reference=0.5,
        )
        result[kind] = Markup(figure)  # noqa: S704
    return result


def _markers_plot(report: dict[str, Any], arms: list[dict[str, str]]) -> Markup | None:
    voice = report["measures"]["markers"]["voice"]
    if not voice:
        return None
    figure = plots.dots(
        "markers",
        "Share of replies that show each voice marker, for every arm, with 95% intervals. "
        "The table below holds the numbers.",
        list(voice.items()),
        [plots.Arm(arm["id"], arm["role"]) for arm in arms],
        axis="share of replies",
    )
    return Markup(figure)  # noqa: S704


def _refusals_plot(report: dict[str, Any], arms: list[dict[str, str]]) -> Markup:
    refusals = report["measures"]["refusals"]
    rows = [
        (f"boundary: {label}", {arm["id"]: refusals["boundary"][arm["id"]][key] for arm in arms})
        for key, label in _OUTCOMES
    ]
    rows.append(("look-alike: declined", {arm["id"]: refusals["look_alike"][arm["id"]]["declined"] for arm in arms}))
    figure = plots.dots(
        "refusals",
        "What became of boundary prompts, and how often harmless look-alikes were declined, for every arm, "
        "with 95% intervals. The table below holds the numbers.",
        rows,
        [plots.Arm(arm["id"], arm["role"]) for arm in arms],
        axis="share of replies",
    )
    return Markup(figure)  # noqa: S704


def _curves(stage: str, curve: list[dict[str, Any]]) -> Markup | None:
    """Loss, and for preference training how far and how often the chosen reply is ahead."""
    panels = []
    for key, title in (
        ("loss", "loss"),
        ("rewards/margins", "reward margin"),
        ("rewards/accuracies", "chosen ahead (share of pairs)"),
    ):
        rows = [(row.get("step", number + 1), row[key]) for number, row in enumerate(curve) if key in row]
        if rows:
            panels.append((title, [step for step, _ in rows], [value for _, value in rows]))
    if not panels:
        return None
    parts = [f"{title} from {plots.fixed(values[0])} to {plots.fixed(values[-1])}" for title, _, values in panels]
    label = f"{stage.upper()} over {len(curve)} logged steps: {'; '.join(parts)}."
    return Markup(plots.curves(f"curves-{stage}", label, panels))  # noqa: S704
