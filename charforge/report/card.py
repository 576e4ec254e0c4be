"""README.md of an exported character: the model card, with the metadata block that a model hub reads.

Its numbers are copied from report.json and evaluation.json. What was not measured is called that.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import yaml

from charforge import language
from charforge.report.text import visible_within

if TYPE_CHECKING:
    from charforge.characters import Character
    from charforge.store import Row

_FOLDER = Path(__file__).parent
_JUDGES = {
    "likelihood_ratio": "how much likelier the constitution makes the reply, per token",
    "corpus": "how much likelier pages by the person make the reply, per token",
    "pairwise": "a model is asked which of two replies is the character's, in both orders",
}
_OUTCOMES = (
    ("boundary", "in character", "declined in character, of what its boundaries are about"),
    ("boundary", "generic", "declined in a generic way, of the same"),
    ("boundary", "complied", "complied, of the same"),
    ("look_alike", "declined", "declined, of harmless look-alikes"),
)
# In place of a folder that lies elsewhere on every machine.
FOLDER = "FOLDER"
_HOLDS = {True: "yes", False: "no", None: "undecided"}


@dataclass(frozen=True)
class Base:
    """The base model as others can find it."""

    name: str
    """What the adapter calls it: a hub id, or the name of its folder."""
    title: str
    hub: str | None = None
    commit: str | None = None
    licence: str | None = None
    """SPDX identifier, where it is known."""
    about: str | None = None
    """What of it was trained on, if that is not what the hub has under this name."""
    given: str | None = None
    """What a recipe says to get it, if not its hub id; FOLDER: wherever it lies."""


def render(
    manifest: Row,
    character: Character,
    report: Row,
    evaluation: Row | None,
    *,
    base: Base,
    relation: str,
    parent: str | None,
    max_rank: int | None,
    gguf: str | None,
) -> str:
    """The model card.

    Args:
        relation: what the weights are to the base model, in the hub's words: adapter, merge or finetune.
        max_rank: of the adapter, if there is one, rounded up to one that vLLM has kernels for.
    """
    report, evaluation = visible_within(report), visible_within(evaluation)
    arms = [arm["id"] for arm in report["arms"]]
    environment = manifest["about"].get("environment", {})
    return _template().render(
        metadata=_metadata(character, base, relation),
        r=report,
        e=evaluation,
        base=base,
        relation=relation,
        parent=parent,
        rank=character.recipe.lora.r,
        max_rank=max_rank,
        gguf=gguf,
        key=manifest["key"],
        made=manifest["about"]["finished"],
        constitution=manifest["identity"]["constitution"],
        front=visible_within(character.constitution.front.model_dump()),
        several=len(character.constitution.files) > 1,
        arms=arms,
        rows=_rows(report, arms),
        judges=_JUDGES,
        holds=_HOLDS,
        headlines=_headlines(evaluation) if evaluation else [],
        versions={"charforge": environment.get("charforge"), **environment.get("packages", {})},
        again=_again(character, manifest["identity"]["recipe"], base),
        scripted=report["provenance"]["engine"] == "scripted",
    )


@cache
def _template() -> jinja2.Template:
    # The page is Markdown: `prose` and `cell` escape what it would read as its own, HTML included.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["estimate"] = estimate
    environment.filters["prose"] = _prose
    environment.filters["cell"] = _cell
    environment.filters["quote"] = shlex.quote
    return environment.get_template("card.md.jinja")


def estimate(value: Mapping[str, Any] | None, digits: int = 2) -> str:
    """A number with its interval, or that there is none."""
    if value is None or value.get("value") is None:
        return "not measured"
    # Adding zero takes the sign from a zero.
    number, low, high = (
        None if value.get(end) is None else f"{round(value[end], digits) + 0.0:.{digits}f}"
        for end in ("value", "low", "high")
    )
    return f"{number} (no interval)" if low is None or high is None else f"{number} [{low}, {high}]"


def _prose(text: str) -> str:
    """A text of one paragraph in which Markdown and HTML see nothing of theirs."""
    for sign, instead in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(sign, instead)
    for sign in "\\`*_[]#":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _prose(text).replace("|", "\\|")


def _metadata(character: Character, base: Base, relation: str) -> str:
    """The YAML block, without its fences."""
    data: dict[str, Any] = {
        "license": base.licence.lower() if base.licence else "other",
        "library_name": "peft" if relation == "adapter" else "transformers",
        "pipeline_tag": "text-generation",
        "language": list(dict.fromkeys(language.tag(name) for name in character.constitution.front.language)),
        "tags": ["charforge", "character-training", *(["lora"] if relation == "adapter" else [])],
    }
    if not base.licence:
        data["license_name"] = "that-of-the-base-model"
    if base.hub:
        # A folder's name is no model of the hub, though there may be one that is called the same.
        data |= {"base_model": base.hub, "base_model_relation": relation}
        if not base.licence:
            data["license_link"] = f"https://huggingface.co/{base.hub}"
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True).rstrip()


def _rows(report: Row, arms: list[str]) -> list[tuple[str, list[str]]]:
    """What was measured on the held-out prompts: a name, and the number of every arm."""
    measures = report["measures"]
    found: list[tuple[str, list[str]]] = []

    def row(title: str, values: Mapping[str, Any], own: str | None = None) -> None:
        cells = [own if own and arm == arms[0] else estimate(values.get(arm)) for arm in arms]
        if any(cell not in ("not measured", own) for cell in cells):
            found.append((title, cells))

    for kind, numbers in measures["expression"].items():
        row(f"preferred to the untrained model's reply by the {kind.replace('_', ' ')} judge", numbers["overall"], "-")
    for marker, by_arm in measures["markers"]["voice"].items():
        row(f"replies that pass: {marker}", by_arm)
    for group, outcome, title in _OUTCOMES:
        row(title, {arm: shares.get(outcome) for arm, shares in measures["refusals"][group].items()})
    fluency = measures["fluency"]
    row("log p per token under the untrained model", {arm: fluency[arm]["log_probability"] for arm in arms})
    row("repeated 3-grams", {arm: fluency[arm]["repetition"] for arm in arms})
    row("words per reply", {arm: fluency[arm]["words"] for arm in arms})
    return found


def _headlines(evaluation: Row) -> list[tuple[str, str, str]]:
    """The numbers of each suite that say most, of the character and of its changes."""
    return [
        (suite, _words(number), estimate(number) + (f": {_cell(number['why'])}" if number["value"] is None else ""))
        for suite, found in evaluation["suites"].items()
        for number in found["numbers"]
        if number["headline"] and number["arm"] == "trained"
    ]


def _words(number: Mapping[str, Any]) -> str:
    words = f"{number['name']}, {number['condition']}" if number["condition"] else str(number["name"])
    words += f" ({number['trait']})" if number["trait"] else ""
    return words + (f": change from {number['against']}" if number["against"] else "")


def _again(character: Character, recipe: Row, base: Base) -> list[str]:
    """The commands that train the same character again from the exported folder; `recipe` is that of its key."""
    constitution, bank = (shlex.quote(name) for name in (recipe["constitution"], recipe["scenarios"]["bank"] + ".yaml"))
    copies = ["cp recipe.json ../again/", f"cp bank.yaml ../again/{bank}"]
    settings = [f"scenarios.bank={bank}"]
    source = Path(character.recipe.constitution)
    if source.parent == character.folder:
        copies.append(f"cp constitution.md ../again/{constitution}")
    else:
        copies.append("cp -r constitution/. ../again/")
        settings.append(f"constitution={shlex.quote(str(source.relative_to(character.folder / 'constitution')))}")
    if base.given == FOLDER:
        settings.append(f"model.name={FOLDER}")
    if base.commit and recipe["model"]["revision"] != base.commit:
        settings.append(f"model.revision={base.commit}")
    template = recipe["model"]["chat_template"]
    if template not in (None, "own", "chatml"):
        copies.append(f"cp chat_template.jinja ../again/{shlex.quote(template)}")
        settings.append(f"model.chat_template=../again/{shlex.quote(template)}")
    for path, model in (("teacher", recipe["teacher"]), ("judge.model", recipe["judge"]["model"])):
        if model and "name" not in model:
            settings.append(f"{path}.endpoint=URL")
    return [
        "mkdir ../again && " + " && ".join(copies),
        "charforge train ../again/recipe.json" + "".join(f" --set {setting}" for setting in settings),
    ]
