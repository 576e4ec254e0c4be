"""The report page: complete, honest, and safe to open."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml

from charforge.report import plots, training
from charforge.report.text import visible

_ARMS = {
    "untrained": "the base model as it is",
    "prompted": "the base model with the constitution (in brief) as its system prompt",
    "sft": "after supervised fine-tuning",
    "dpo": "after supervised fine-tuning and preference training",
}
_NASTY = "<script>alert(1)</script> \x1b[31mred\x1b[0m a\u202eb & 'quoted' \"twice\"\n\n$not$ TeX"
_VOID = {"meta", "input", "link", "br", "hr", "img"}


def estimate(value: float, low: float | None, high: float | None, n: int = 40) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": n, "clusters": n // 2}


def example_report(arms: tuple[str, ...] = tuple(_ARMS), judges: bool = True) -> dict[str, Any]:
    """A small report with what a real one can hold: an unheard judge, absent estimates, hostile replies."""
    others = [arm for arm in arms if arm != "untrained"]
    traits = [
        {
            "id": "question",
            "title": "Ends with a question",
            "section": "Voice",
            "boundary": False,
            "summary": "Asks.",
        },
        {"id": "plain", "title": "Plain <words>", "section": "Voice", "boundary": False, "summary": "Short."},
        {"id": "harm", "title": "No harm", "section": "Boundaries", "boundary": True, "summary": "Declines."},
    ]
    by_trait = [estimate(0.96, 0.81, 0.99, 16), estimate(0.62, 0.41, 0.8, 12), None]
    level = dict(zip(_ARMS, (0.04, 0.41, 0.8, 0.91), strict=True))

    def everywhere(value: Any) -> dict[str, Any]:
        return {arm: copy.deepcopy(value) for arm in arms}

    def shares(name: str) -> dict[str, Any]:
        low = {arm: max(0.0, level[arm] - 0.05) for arm in arms}
        return {arm: {name: estimate(level[arm], low[arm], level[arm] + 0.05)} for arm in arms}

    samples: list[dict[str, Any]] = [
        {
            "prompt": f"Prompt number {index}?",
            "trait": trait,
            "kind": kind,
            "replies": {arm: _NASTY if index == 1 else f"Reply {index} of {arm}." for arm in arms},
            "scores": everywhere({"likelihood_ratio": -0.001} if judges else {}),
            "outcomes": everywhere(outcome),
        }
        for index, (trait, kind, outcome) in enumerate(
            [
                ("question", "probe", None),
                ("plain", "general", None),
                ("harm", "boundary", "in character"),
                ("harm", "look-alike", "complied"),
            ]
        )
    ]
    samples[0]["replies"][arms[-1]] = "  \n"
    pair = {"trait": "question", "source": "revisions", "kind": "probe", "margin": 0.4321, "score": 0.2}
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello?"}]
    return {
        "schema": 1,
        "character": {
            "name": "Wren",
            "version": "1.0.0",
            "reference": "wren@1.0.0",
            "summary": "A small companion.",
            "build": "0123456789ab",
        },
        "model": {"title": "SmolLM2 135M", "name": "builtin:smollm2-135m-instruct", "method": "lora"},
        "traits": traits,
        "arms": [{"id": arm, "title": _ARMS[arm]} for arm in arms],
        "judges": [
            {
                "kind": "likelihood_ratio",
                "accuracy": {
                    **estimate(0.86, 0.74, 0.93, 50),
                    "unscored": 0,
                    "mean_mass": 1.0,
                    "against": {
                        "contrast": estimate(0.9, 0.7, 0.97, 25),
                        "plain": estimate(0.82, 0.61, 0.93, 25),
                    },
                },
                "believed": judges,
                "made_the_labels": True,
            },
            {
                "kind": "pairwise",
                "accuracy": {
                    **estimate(0.61, 0.41, 0.78, 50),
                    "unscored": 3,
                    "mean_mass": 0.9,
                    "against": {"contrast": estimate(0.61, 0.41, 0.78, 25)},
                },
                "believed": False,
                "made_the_labels": False,
            },
        ],
        "measures": {
            "expression": {
                "likelihood_ratio": {
                    "overall": {arm: estimate(level[arm], level[arm] - 0.05, level[arm] + 0.03) for arm in others},
                    "margin": {arm: estimate(0.5, None, None) for arm in others},
                    "unscored": dict.fromkeys(others, 0),
                    "by_trait": {
                        trait["id"]: dict.fromkeys(others, value) for trait, value in zip(traits, by_trait, strict=True)
                    },
                }
            }
            if judges
            else {},
            "markers": {
                "voice": {
                    "ends with a question": {arm: found["x"] for arm, found in shares("x").items()},
                    r"matches /\$?<b>" + "x" * 80 + "/": everywhere(None),
                },
                "by_trait": {
                    "question": {"no lists": everywhere(estimate(1, 0.7, 1, 8))},
                    "plain": {},
                    "harm": {},
                },
            },
            "refusals": {
                "boundary": everywhere(
                    {
                        "in character": estimate(0.5, 0.3, 0.7, 20),
                        "generic": estimate(0.2, 0.1, 0.4, 20),
                        "complied": estimate(0.3, 0.15, 0.5, 20),
                    }
                ),
                "look_alike": everywhere({"complied": None, "declined": None}),
            },
            "fluency": {
                arm: {
                    "log_probability": estimate(-0.9, -1.0, -0.8),
                    "repetition": estimate(0.02, 0.01, 0.03),
                    "words": estimate(71.25, 66.0, 76.5) if arm == "untrained" else estimate(41.0, 38.0, 44.0),
                    "cut": estimate(0.06, 0.03, 0.12),
                    "empty": int(arm == arms[-1]),
                    "change": None if arm == "untrained" else estimate(-0.21, -0.3, -0.12),
                }
                for arm in arms
            },
            "fluency_bound": {
                "authored_log_probability": estimate(-1.4, -1.6, -1.2),
                "repetition_margin": 0.1,
                "arms": {
                    arm: {
                        "log_probability_within": True,
                        "repetition_within": arm != "prompted",
                        "repetition_change": None if arm == "untrained" else estimate(0.01, -0.02, 0.04),
                        "within": arm != "prompted",
                    }
                    for arm in arms
                },
            },
            "prompts": {"heldout": 20, "replies_per_arm": 40},
        },
        "samples": samples,
        "data": {
            "candidates": {"plain": 80, "teacher": 320},
            "sft": {"rows": 90, "by_trait": {"question": 60, "plain": 30}, "by_source": {"authored": 90}},
            "pairs": {"rows": 1, "by_trait": {"question": 1}, "by_source": {"revisions": 1}},
            "dropped": {"not fluent": 12, "cut at the token limit": 7},
            "mean_words": {"chosen": 38.2, "rejected": None},
            "mean_margin": None,
            "samples": [{**pair, "prompt": talk, "chosen": "A chosen reply.", "rejected": _NASTY}],
        },
        "training": {
            stage: {
                "curve": [
                    {
                        "step": step + 1,
                        "loss": 3 - step / 10,
                        "rewards/margins": step / 20,
                        "rewards/accuracies": 0.5,
                    }
                    if stage == "dpo"
                    else {"step": step + 1, "loss": 2 - step / 20}
                    for step in range(12 if stage == "dpo" else 1)
                ],
                "result": {
                    "rows": 90,
                    "rows_kept": 89,
                    "rows_dropped": 1,
                    "tokens": 4000,
                    "steps": 12,
                    "resumed_from": None,
                    "device": "cpu",
                    "processes": 1,
                    "versions": {"trl": "1.10.0"},
                },
            }
            for stage in ("sft", "dpo")
            if stage in arms
        },
        "warnings": ["Only 20 held-out prompts: the intervals are wide."],
        "provenance": {
            "engine": "vllm",
            "seed": 7,
            "constitution_digest": "c" * 64,
            "keys": {"judge": "a" * 64, "evaluation": "b" * 64},
            "recipe": {
                "seed": 7,
                "constitution": "pip.md",
                "scenarios": {"bank": "general"},
                "model": {"name": "builtin:smollm2-135m-instruct", "chat_template": "chatml"},
                "teacher": None,
                "dpo": {
                    "learning_rate": 5e-05,
                    "beta": 0.1,
                    "trainer_args": {"tiny": 1e-8, "text": "1e-8\u202e"},
                },
                "judge": {"min_accuracy": 0.75, "model": None},
            },
            "environment": {"python": "3.12.1", "cuda": False, "packages": {"torch": "2.9.0"}},
        },
    }


class Page(HTMLParser):
    """Reads a page strictly: every element is closed where it should be."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.scripts: list[str] = []
        self.policy = ""
        self.pieces: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"] or ""
        assert not any(name.startswith("on") for name in found)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.scripts.append(data)
        elif "style" not in self.open:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.pieces))


@pytest.fixture(scope="module")
def source() -> str:
    return training.page(example_report())


@pytest.fixture(scope="module")
def parsed(source: str) -> Page:
    return Page(source)


def test_page_is_one_sound_file(source: str, parsed: Page) -> None:
    assert source.startswith("<!doctype html>")
    assert len(parsed.ids) == len(set(parsed.ids))
    fragments = {address[1:] for address in parsed.addresses if address.startswith("#")}
    assert fragments <= set(parsed.ids)
    source.encode("utf-8")


def test_nothing_is_loaded(source: str, parsed: Page) -> None:
    assert all(address.startswith("#") for address in parsed.addresses)
    assert "url(" not in source
    assert "@import" not in source
    assert "http" not in re.sub(r'http-equiv|<pre id="recipe">.*?</pre>', "", source, flags=re.DOTALL)


def test_policy_allows_this_script_and_no_other(parsed: Page) -> None:
    assert len(parsed.scripts) == 1
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in parsed.policy
    assert "default-src 'none'" in parsed.policy


def test_hostile_replies_are_shown_and_harmless(source: str, parsed: Page) -> None:
    assert "<script>alert(1)" not in source
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in source
    assert "\x1b" not in source and "\u202e" not in source
    assert "⟦U+001B⟧[31mred⟦U+001B⟧[0m a⟦U+202E⟧b" in parsed.text
    assert "Plain <words>" in parsed.text


def test_every_sample_is_there(parsed: Page) -> None:
    for sample in example_report()["samples"]:
        assert sample["prompt"] in parsed.text
        for reply in sample["replies"].values():
            assert " ".join(visible(reply).split()) in parsed.text
    assert "(an empty reply)" in parsed.text
    assert "user: Hi" in parsed.text and "assistant: Hello?" in parsed.text


def test_numbers_carry_their_intervals(parsed: Page) -> None:
    for shown in ("0.91 [0.86, 0.94]", "0.86 [0.74, 0.93]", "−0.21 [−0.30, −0.12]", "71.2 [66.0, 76.5]"):
        assert shown in parsed.text
    assert "0.50 (no interval)" in parsed.text
    assert "not measured" in parsed.text
    assert "50 / 25" in parsed.text
    assert re.search(r"\b(None|nan)\b", parsed.text) is None


def test_same_report_same_bytes(source: str) -> None:
    report = example_report()
    kept = copy.deepcopy(report)
    assert training.page(report) == source
    assert report == kept
    assert training.page(json.loads(json.dumps(report, sort_keys=True))) == source


@pytest.mark.parametrize("arms", [("untrained", "dpo"), ("untrained", "sft"), ("untrained", "sft", "dpo")])
def test_arms_may_be_missing(arms: tuple[str, ...]) -> None:
    text = Page(training.page(example_report(arms))).text
    assert "prompted" not in text
    assert "None saw the constitution" in text
    assert ("Preference training (DPO)" in text) == ("dpo" in arms)


def summary(report: dict[str, Any]) -> dict[str, str]:
    return dict(training._summary(report, training._arms(report)))


def test_summary_says_what_the_numbers_say() -> None:
    found = summary(example_report())
    assert "On 20 prompts it was never trained on" in found["In character"]
    assert "in 0.91 [0.86, 0.94] of comparisons" in found["In character"]
    assert "it also made the training labels" in found["In character"]
    assert "0.61 [0.41, 0.78]" in found["Unheard judge"]
    assert found["Trait by trait"] == "1 of 2 traits are clearly above 0.5; 1 can not be told from it (Plain <words>)."
    assert "clearly above" in found["Against a prompt"]
    assert "“ends with a question” went from 0.04 [0.00, 0.09] to 0.91 [0.86, 0.96]" in found["Voice markers"]
    assert "no change is certain" in found["Refusals"]
    assert "Over-refusal" not in found
    assert "less likely" in found["Fluency"] and "Replies are shorter" in found["Fluency"]
    assert "cut at the token limit" in found["Fluency"] and "1 reply is empty" in found["Fluency"]


@pytest.mark.parametrize(
    ("interval", "words"),
    [((0.46, 0.63), "includes 0.5"), ((0.2, 0.4), "led away"), ((None, None), "no evidence yet")],
)
def test_summary_does_not_praise_what_is_unclear(interval: tuple[float | None, float | None], words: str) -> None:
    report = example_report()
    value = 0.3 if interval == (0.2, 0.4) else 0.55
    report["measures"]["expression"]["likelihood_ratio"]["overall"]["dpo"] = estimate(value, *interval)
    assert words in summary(report)["In character"]
    assert words in Page(training.page(report)).text


def test_summary_tells_of_over_refusal() -> None:
    report = example_report()
    refusals = report["measures"]["refusals"]["look_alike"]
    refusals["untrained"] = {"complied": estimate(0.95, 0.8, 0.99), "declined": estimate(0.05, 0.01, 0.2)}
    refusals["dpo"] = {"complied": estimate(0.4, 0.25, 0.6), "declined": estimate(0.6, 0.4, 0.75)}
    assert "refuse harmless requests more" in summary(report)["Over-refusal"]


def test_without_a_believed_judge_there_is_no_win_rate() -> None:
    report = example_report(judges=False)
    assert "no win rates" in summary(report)["In character"]
    assert "Against a prompt" not in summary(report)
    assert "Not measured: no judge was accurate enough" in Page(training.page(report)).text


def test_a_scripted_run_says_so() -> None:
    report = example_report()
    report["provenance"]["engine"] = "scripted"
    assert "mean nothing" in summary(report)["No model"]


def test_recipe_is_exact_and_can_be_read_again(source: str) -> None:
    shown = re.search(r'<pre id="recipe">(.*?)</pre>', source, re.DOTALL)
    assert shown is not None
    text = Page(f"<pre>{shown[1]}</pre>").pieces
    wanted = example_report()["provenance"]["recipe"]
    assert json.loads("".join(text)) == wanted
    assert yaml.safe_load("".join(text)) == wanted


def test_what_a_recipe_is_kept_without_stands_in_capitals() -> None:
    report = example_report()
    recipe = report["provenance"]["recipe"]
    assert "FOLDER" not in training.page(report) and "capitals" not in training.page(report)
    recipe["constitution"] = "my pip.md"
    recipe["model"] = {"name": "tiny0", "chat_template": "own.jinja"}
    recipe["teacher"] = {"model": "large"}
    page = Page(training.page(report)).text
    assert "cp constitution.md ~/again/'my pip.md'" in page and "What stands in capitals" in page
    for setting in (
        "scenarios.bank=general.yaml",
        "model.name=FOLDER",
        "model.chat_template=FILE",
        "teacher.endpoint=URL",
    ):
        assert f" --set {setting}" in page
    assert "judge.model.endpoint" not in page


def test_figures_hold_any_label() -> None:
    value = estimate(0.5, 0.4, 0.6)
    figure = plots.forest("x", 'A "label" <b>', [("$\\frac$ <b>&", value), ("鸟", None)], axis="a", reference=0.5)
    page = Page(figure)
    assert "$\\frac$ <b>&" in page.text and "鸟" in page.text and "not measured" in page.text
    assert "url(" not in figure and "#0000" not in figure
    assert 'aria-label="A &quot;label&quot; &lt;b&gt;"' in figure


def test_interval() -> None:
    assert plots.interval(estimate(0.931, 0.88, 0.96)) == "0.93 [0.88, 0.96]"
    assert plots.interval(estimate(-0.001, -1.5, 2)) == "0.00 [−1.50, 2.00]"
    assert plots.interval(estimate(41.25, None, None), 1) == "41.2 (no interval)"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, ünï ©ode\nand lines", "plain text, ünï ©ode\nand lines"),
        ("a\tb", "a b"),
        ("\x1b[2J\x07\r\x7f\x9b", "⟦U+001B⟧[2J⟦U+0007⟧⟦U+000D⟧⟦U+007F⟧⟦U+009B⟧"),
        ("a\u202eb\u2066c\u200f\u061c", "a⟦U+202E⟧b⟦U+2066⟧c⟦U+200F⟧⟦U+061C⟧"),
        ("z\u200bw\u200cn\u200dj\ufeff", "z⟦U+200B⟧w⟦U+200C⟧n⟦U+200D⟧j⟦U+FEFF⟧"),
        (
            "👩\u200d👩\u200d👧 ❤\ufe0f\u200d🔥 🧑🏽\u200d🚀",
            "👩\u200d👩\u200d👧 ❤\ufe0f\u200d🔥 🧑🏽\u200d🚀",
        ),
        ("👩\u200d\u200d👧 👩\u200d.", "👩⟦U+200D⟧⟦U+200D⟧👧 👩⟦U+200D⟧."),
        ("soft\u00adhyphen \U000e0041tag \u2028", "soft⟦U+00AD⟧hyphen ⟦U+E0041⟧tag ⟦U+2028⟧"),
        ("\ud800", "⟦U+D800⟧"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown
