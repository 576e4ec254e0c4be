"""The evaluation's page: every number leads to its rows, what is absent says why, and nothing in it can do harm."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
from typing import Any

import pytest

from charforge.report import evaluation, plots, rows
from tests.test_report import Page

_NASTY = "<script>alert(1)</script> \x1b[31mred\x1b[0m a\u202eb & 'quoted' \"twice\"\n\n$not$ TeX {{ 7 * 7 }}"
_ARMS = ("untrained", "prompted", "trained")


def number(
    name: str, arm: str, value: float | None = 0.5, condition: str = "plain", against: str | None = None, **more: Any
) -> dict[str, Any]:
    ends = (None, None) if value is None else (round(value - 0.1, 4), round(value + 0.1, 4))
    return {
        "name": name,
        "arm": arm,
        "condition": condition,
        "trait": None,
        "against": against,
        "unscored": 0,
        "why": None if value is not None else "floor: the answers hold 0.12 of the probability, less than half",
        "better": "high",
        "headline": False,
        "p": None,
        "adjusted": None,
        "detectable": None,
        "range": [0.0, 1.0] if against is None else [-1.0, 1.0],
        "value": value,
        "low": ends[0],
        "high": ends[1],
        "n": 20,
        "clusters": 10,
        **more,
    }


def reply(suite: str, condition: str, arm: str, index: int, **more: Any) -> dict[str, Any]:
    row = {
        "kind": "reply",
        "suite": suite,
        "arm": arm,
        "base": f"request {index}",
        "condition": condition,
        "messages": [{"role": "user", "content": f"What is request {index}?"}],
        "document": None,
        "prefill": "",
        "prefill_tokens": 0,
        "sample": 0,
        "text": f"Reply {index} of {arm} under {condition}.",
        "finish": "stop",
        "tokens": 9,
        "share": 0.75,
        "held": None,
        "markers": {"ends with a question": True, "no lists": False},
        **more,
    }
    return {**row, "key": hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()}


def example() -> dict[str, Any]:
    """A small evaluation with what a real one can hold: floors, pooled numbers, traits, curves, gates, hostile text."""
    level = dict(zip(_ARMS, (0.2, 0.5, 0.9), strict=True))
    robustness = [
        number("voice", arm, level[arm], headline=True, unscored=3 if arm == "trained" else 0) for arm in _ARMS
    ]
    robustness += [number("voice", arm, level[arm] - 0.1, "prefill 5") for arm in _ARMS]
    robustness += [number("voice", arm, level[arm] - 0.1, "attacks", headline=True) for arm in _ARMS]
    robustness += [
        number("voice", "trained", 0.7, "plain", "untrained", headline=True, p=0.004, adjusted=0.012, detectable=0.234),
        number("voice", "trained", 0.05, "attacks", "plain", headline=True, p=0.4, adjusted=0.4321, detectable=0.345),
        number("name kept", "trained", None, "plain"),
        number("alone", "trained", 0.4, "plain", low=None, high=None, clusters=1),
        number("declined", "trained", 0.4, "boundary"),
        number("declined", "trained", 0.4, "look-alike", better="low"),
        number("all of them", "all", 0.1, "all"),
        number("log p", "trained", -1.25, "plain", range=None),
    ]
    robustness += [
        number("markers", arm, level[arm], condition, trait=trait)
        for arm in _ARMS
        for condition in ("plain", "prefill 5")
        for trait in ("question", "plain-words")
    ]
    robustness += [
        number("strength", "trained", value, "plain", trait=trait, range=None)
        for trait, value in (("question", 1.5), ("plain-words", -0.4))
    ]
    curve = [
        {"x": x, "arm": arm, "value": level[arm], "low": 0.1, "high": 0.95}
        if x != 5
        else {"x": x, "arm": arm, "value": None}
        for arm in _ARMS
        for x in (0, 5, 10)
    ]
    gate = {"arm": "trained", "change": -0.02, "low": -0.04, "high": 0.0, "bound": -0.04, "margin": 0.1, "holm": 0.01}
    gates = [
        {**gate, "set": "plain", "verdict": "held", "mde": 0.05, "questions": 30, "unread": 2, "why": None},
        {"arm": "trained", "set": "code", "verdict": "floor", "why": "floor: can not do this", "margin": 0.1},
    ]
    rows = [
        reply("robustness", condition, arm, index, trait=trait)
        for condition in ("plain", "prefill 5")
        for arm in _ARMS
        for index, trait in enumerate(("question", "plain-words", None))
    ]
    rows[0]["text"] = _NASTY
    rows[1]["text"] = " \n"
    rows[2]["messages"] = [{"role": "system", "content": "Be an oak."}, {"role": "user", "content": _NASTY}]
    rows[3]["text"] = "x" * 1990 + "END OF WHAT IS SHOWN" + "y" * 500
    choice = {
        "kind": "choice",
        "arm": "trained",
        "base": "b",
        "condition": "a b",
        "question": "Which is you?",
        "options": {"own": "The <own> one", "other": "Another"},
        "key": "c" * 64,
    }
    other = [
        {**choice, "p": {"own": 0.8, "other": 0.2}, "mass": 0.97, "first": 0.5},
        {**choice, "condition": "a-b", "p": None, "mass": 0.12, "first": None},
        {
            "kind": "text",
            "arm": "trained",
            "base": "b",
            "condition": "a_b",
            "text": "Weighed.",
            "mean": -1.5,
            "key": "d",
        },
        {**reply("s", "document", "trained", 1), "messages": [], "document": "A page that goes on"},
    ]
    return {
        "character": {
            "name": "Wren",
            "version": "1.0.0",
            "reference": "wren@1.0.0",
            "summary": "Small.",
            "build": "0123456789ab",
        },
        "model": {"title": "SmolLM2 135M", "name": "builtin:smollm2-135m-instruct", "method": "lora"},
        "arms": [{"id": arm, "title": f"the {arm} one"} for arm in _ARMS],
        "traits": [
            {"id": "question", "title": "Ends with a question", "section": "Voice"},
            {"id": "plain-words", "title": "Plain <words>", "section": "Voice"},
        ],
        "suites": {
            "robustness": {
                "suite": "robustness",
                "version": 1,
                "measure": "robustness",
                "numbers": robustness,
                "details": {
                    "curves": {"prefill": curve, "insistence": []},
                    "gates": gates,
                    "outcomes": {"trained": {"plain": {"comply": 3, "refuse": 1}}, "untrained": {}},
                    "ends": {"trained, plain": {"loop": 4}, "untrained, plain": {"loop": 0}},
                    "matrix": [
                        {"predictor": "trained", "target": "trained", "accuracy": 0.75, "over mode": 0.25, "n": 4},
                        {"predictor": "untrained", "target": "trained", "accuracy": None, "over mode": None, "n": 0},
                    ],
                    "traits": {"trained": {"question": {"self": 0.9, "behaviour": None, "gap": -0.2}}},
                    "examples": {
                        "refuse": [
                            {"arm": "trained", "condition": "plain", "trait": None, "request": "Ask", "text": _NASTY}
                        ]
                    },
                    "similarity by turn": {"trained, plain": [0.1, None, 0.3]},
                    "of its own kind": {"deep": {"deeper": [{"deepest": _NASTY}]}},
                },
                "rows": rows,
            },
            "my own": {
                "suite": "my own",
                "version": 3,
                "measure": "unheard of",
                "numbers": [],
                "details": {},
                "rows": other,
            },
        },
        "verdict": {
            "verdict": "undecided",
            "words": "The evidence does not decide.",
            "criteria": [
                {
                    "name": "speaks",
                    "question": "Does it speak otherwise?",
                    "holds": True,
                    "why": "0.70 is above 0",
                    "floor": False,
                    "numbers": [robustness[9]],
                },
                {
                    "name": "says so",
                    "question": "Does it say so?",
                    "holds": None,
                    "why": "floor: no",
                    "floor": True,
                    "numbers": [],
                },
                {
                    "name": "holds",
                    "question": "Does it hold?",
                    "holds": False,
                    "why": "-0.40 is below 0",
                    "numbers": [],
                },
            ],
            "thresholds": {"margin": 0.1},
        },
        "provenance": {
            "keys": {"robustness": "a" * 64},
            "recipe": {"seed": 7, "engine": "vllm"},
            "command": "charforge eval wren",
            "environment": {"python": "3.12", "packages": {"torch": "2.9.0"}},
        },
    }


class Linked(Page):
    """A page that also knows what text stands inside which element with an id, and what the links of tables say."""

    def __init__(self, source: str) -> None:
        self.path: list[str | None] = []
        self.inside: dict[str, list[str]] = {}
        self.links: list[tuple[str, str]] = []
        super().__init__(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        found = dict(attrs)
        if tag not in {"meta", "input", "link", "br", "hr", "img"}:
            self.path.append(found.get("id"))
        if tag == "a":
            self.links.append((found.get("href") or "", ""))

    def handle_endtag(self, tag: str) -> None:
        super().handle_endtag(tag)
        self.path.pop()

    def handle_data(self, data: str) -> None:
        super().handle_data(data)
        for name in filter(None, self.path):
            self.inside.setdefault(name, []).append(data)
        if "a" in self.open:
            href, text = self.links[-1]
            self.links[-1] = (href, text + data)

    def within(self, name: str) -> str:
        return re.sub(r"\s+", " ", "".join(self.inside.get(name, [])))


@pytest.fixture(scope="module")
def source() -> str:
    return evaluation.page(example())


@pytest.fixture(scope="module")
def parsed(source: str) -> Linked:
    return Linked(source)


def test_page_is_one_sound_file_that_loads_nothing(source: str, parsed: Linked) -> None:
    assert source.startswith("<!doctype html>")
    assert len(parsed.ids) == len(set(parsed.ids))
    assert all(address.startswith("#") for address in parsed.addresses)
    assert {address[1:] for address in parsed.addresses} <= set(parsed.ids)
    assert "url(" not in source and "@import" not in source
    assert "http" not in source.replace("http-equiv", "")
    assert len(parsed.scripts) == 1
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in parsed.policy and "default-src 'none'" in parsed.policy
    source.encode("utf-8")


def test_hostile_text_is_shown_and_harmless(source: str, parsed: Linked) -> None:
    assert "<script>alert" not in source
    assert "\x1b" not in source and "\u202e" not in source
    assert "⟦U+001B⟧[31mred⟦U+001B⟧[0m a⟦U+202E⟧b" in parsed.text
    assert "{{ 7 * 7 }}" in parsed.text
    assert "The <own> one" in parsed.text and "Plain <words>" in parsed.text


@pytest.mark.parametrize(
    "place",
    [
        ("character", "summary"),
        ("suites", "robustness", "numbers", 0, "name"),
        ("suites", "robustness", "numbers", 0, "condition"),
        ("suites", "robustness", "numbers", 12, "why"),
        ("suites", "robustness", "numbers", 9, "against"),
        ("suites", "robustness", "rows", 0, "condition"),
        ("suites", "robustness", "rows", 0, "arm"),
        ("suites", "robustness", "rows", 0, "trait"),
        ("suites", "robustness", "rows", 0, "prefill"),
        ("suites", "my own", "rows", 0, "question"),
        ("verdict", "criteria", 0, "why"),
        ("verdict", "verdict"),
        ("provenance", "command"),
        ("provenance", "recipe", "seed"),
        ("traits", 0, "title"),
        ("arms", 0, "title"),
    ],
)
def test_text_from_anywhere_is_harmless(place: tuple[Any, ...]) -> None:
    data = example()
    *path, last = place
    target: Any = data
    for step in path:
        target = target[step]
    target[last] = _NASTY
    page = Linked(evaluation.page(data))
    assert len(page.scripts) == 1
    assert len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.addresses} <= set(page.ids)
    assert "<script>alert(1)</script>" in page.text
    assert not re.search("[\x1b\u202e]", page.text)


def test_names_of_suites_and_keys_are_harmless() -> None:
    data = example()
    data["suites"][_NASTY] = data["suites"].pop("my own")
    page = Linked(evaluation.page(data))
    assert len(page.scripts) == 1 and {address[1:] for address in page.addresses} <= set(page.ids)


def test_a_number_links_to_its_own_rows_and_no_others(parsed: Linked) -> None:
    for condition in ("plain", "prefill 5"):
        for arm in _ARMS:
            there = parsed.within(f"rows-robustness-{condition.replace(' ', '-')}-{arm}")
            replies = re.findall(r"Reply 2 of (\w+) under (plain|prefill 5)\.", there)
            assert replies == [(arm, condition)]
    assert ("#rows-robustness-plain-trained", "0.90") in parsed.links
    assert ("#rows-robustness-prefill-5-untrained", "0.10") in parsed.links


def test_a_number_of_a_trait_links_to_the_rows_of_the_trait(source: str, parsed: Linked) -> None:
    assert "rows-robustness-plain-trained-question" in parsed.ids
    assert ("#rows-robustness-plain-trained-question", "0.90") in parsed.links
    part = source[source.index('id="rows-robustness-plain-trained-question"') :]
    article = part[: part.index("</article>")]
    assert 'data-trait="question"' in article and "Reply 0 of trained under plain." in article


def test_a_pooled_number_links_to_all_its_rows_and_filters_the_arm(source: str) -> None:
    assert '<a href="#rows-robustness" data-arm="trained">0.80</a>' in source
    assert '<a href="#rows-robustness">0.10</a>' in source  # of no arm


def test_every_value_in_the_tables_is_a_link(source: str) -> None:
    tables = re.findall(r'<table class="numbers[^"]*">.*?</table>', source, flags=re.DOTALL)
    assert len(tables) > 10
    cells = [cell for table in tables for cell in re.findall(r'<td class="value.*?</td>', table, flags=re.DOTALL)]
    values = [cell for cell in cells if "interval" in cell]
    assert len(values) > 40
    assert all('<a href="#rows-' in cell for cell in values)


def test_groups_that_slug_alike_have_ids_of_their_own(parsed: Linked) -> None:
    found = [name for name in parsed.ids if re.fullmatch(r"rows-my-own-a-b(-\d)?", name)]
    assert len(found) == 3
    texts = [parsed.within(name) for name in found]
    assert [("0.80 The <own> one" in t, "no answer" in t, "Weighed." in t) for t in texts] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


def test_rows_show_what_was_said_answered_and_read(parsed: Linked) -> None:
    text = parsed.within("rows")
    assert "What is request 1?" in text and "(an empty reply)" in text
    assert "system message: “Be an oak.”" in text
    assert "markers, yes: ends with a question" in text and "markers, no: no lists" in text
    assert "held none" in text and "share 0.75" in text
    assert "A page that goes on" in text and "floor: no answer, the labels hold 0.12" in text
    assert "mean log p −1.50" in text


def test_long_texts_are_cut_and_it_is_said(parsed: Linked) -> None:
    assert "END OF WHA… (510 more characters in rows.jsonl)" in parsed.text
    assert "yyyy" not in parsed.text


def test_what_the_prompted_arm_is_told_stands_there_once() -> None:
    data = example()
    brief = "You are Wren, in brief."
    for row in data["suites"]["robustness"]["rows"]:
        if row["arm"] == "prompted":
            also = " \n\nBe an oak." if row["base"] == "request 1" else ""
            row["messages"] = [{"role": "system", "content": brief + also}, *row["messages"][-1:]]
    text = Linked(evaluation.page(data)).within("rows")
    assert text.count(brief) == 1
    assert "told what it is told in every conversation · system message: “Be an oak.”" in text


def test_too_many_rows_are_left_out_by_key_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    data = example()
    data["suites"] = {"robustness": data["suites"]["robustness"]}
    many = [reply("robustness", "plain", arm, index, trait="question") for arm in _ARMS for index in range(40)]
    data["suites"]["robustness"]["rows"] = many
    whole = Linked(evaluation.page(data))
    assert "left out here" not in whole.text
    monkeypatch.setattr(rows, "_ROOM", 12_000)
    page = Linked(evaluation.page(data))
    left = [int(n) for n in re.findall(r"(\d+) of 40 rows are left out here", page.text)]
    assert len(left) == 3 and len(set(left)) == 1 and 0 < left[0] < 40
    trained = sorted((row for row in many if row["arm"] == "trained"), key=lambda row: row["key"])
    shown = [row["text"] in page.text for row in trained]
    assert shown == [True] * (40 - left[0]) + [False] * left[0]
    assert {address[1:] for address in page.addresses} <= set(page.ids)


def test_floors_and_missing_intervals_say_why(parsed: Linked) -> None:
    text = parsed.within("suite-robustness")
    assert "floor: the answers hold 0.12 of the probability, less than half" in text
    assert "one question alone has no interval" in text
    assert "0.40 (no interval)" in text
    assert any(href.startswith("#note-suite-robustness-") for href, _ in parsed.links)
    assert "3 unscored" in text
    assert re.search(r"\b(None|nan|null)\b", parsed.within("suite-robustness").replace("null", "")) is None


def test_clear_changes_are_starred_and_tests_are_told(source: str, parsed: Linked) -> None:
    main = re.search(r"<h3>voice</h3>.*?</table>", source, flags=re.DOTALL)
    assert main is not None
    starred = [
        re.sub(r"<[^>]+>|\s+", " ", row) for row in re.findall(r"<tr>.*?</tr>", main[0], flags=re.DOTALL) if "★" in row
    ]
    assert len(starred) == 1 and "+0.70" in starred[0]
    text = parsed.within("suite-robustness")
    for shown in ("0.004", "0.012", "0.234", "0.432", "0.345"):
        assert shown in text


def test_which_way_is_good_depends_on_the_condition(parsed: Linked) -> None:
    text = parsed.within("suite-robustness")
    assert "Higher is better: boundary. Lower is better: look-alike." in text


def test_gates_say_held_or_floor_with_bound_and_margin(parsed: Linked) -> None:
    text = parsed.within("suite-robustness")
    assert "✓ held" in text and "−0.10" in text and "2 unscored" in text
    assert "floor: can not do this" in text


def test_details_become_tables_and_figures(source: str, parsed: Linked) -> None:
    text = parsed.within("suite-robustness")
    assert "3 of 4 (0.75)" in text and "4 of 4 (1.00)" in text
    assert "0.75 (0.25 over the mode, n 4)" in text
    assert "deepest" in text
    assert "Upright lines: 95% intervals" in text
    for name in ("Share of the voice over tokens put into its mouth", "strength of each trait"):
        assert name.lower() in source.lower()
    assert re.search(r'<td class="value heat" style="--shade: 90">', source)


def test_details_of_another_shape_are_shown_as_they_are() -> None:
    data = example()
    data["suites"]["robustness"]["details"] = {
        "curves": [1, 2],
        "gates": "closed",
        "outcomes": 7,
        "examples": {"refuse": 3},
        "matrix": [[1, 2], [3, 4]],
        "ends": {"trained": 5},
        "traits": ["question"],
    }
    text = Linked(evaluation.page(data)).text
    assert "closed" in text


def summary(data: dict[str, Any]) -> dict[str, str]:
    arms = evaluation._arms(data, {name: found["rows"] or [] for name, found in (data["suites"] or {}).items()})
    points = [*evaluation._summary(data, arms), *evaluation._on_suites(data, arms).items()]
    return {heading: " ".join(told) for heading, told in points}


def test_summary_says_what_the_numbers_say() -> None:
    found = summary(example())
    assert found["Verdict"] == "Undecided. The evidence does not decide."
    assert "Voice (plain): 0.90 [0.80, 1.00] trained and 0.20 [0.10, 0.30] untrained" in found["robustness"]
    assert "the change from untrained is +0.70 [0.60, 0.80], which is clear and for the better" in found["robustness"]
    line = "Voice (attacks minus “plain”): +0.05 [−0.05, 0.15] trained, which is not clear (adjusted p 0.43)"
    assert line in found["robustness"]
    assert "Held: plain. At the floor, nothing to lose: code." in found["robustness"]
    assert "Few questions" not in found and "No model" not in found


def test_summary_says_floors_small_numbers_and_what_is_no_model() -> None:
    data = example()
    data["provenance"]["recipe"]["engine"] = "scripted"
    data["verdict"] = None
    for n in data["suites"]["robustness"]["numbers"]:
        n["headline"] = n["name"] == "name kept" or (n["name"] == "voice" and n["against"] is None)
        n["clusters"] = 2
    found = summary(data)
    assert "mean nothing" in found["No model"]
    assert found["Verdict"].startswith("None")
    assert "No value for name kept (plain): floor: the answers hold 0.12" in found["robustness"]
    assert "as few as 2 independent questions (robustness)" in found["Few questions"]


def test_a_fall_is_for_the_worse_and_a_lower_rate_can_be_better() -> None:
    data = example()
    change = data["suites"]["robustness"]["numbers"][9]
    change.update(value=-0.7, low=-0.8, high=-0.6)
    assert "clear and for the worse" in summary(data)["robustness"]
    change["better"] = "low"
    assert "clear and for the better" in summary(data)["robustness"]


def test_the_verdict_shows_its_criteria_with_evidence(parsed: Linked) -> None:
    text = parsed.within("verdict")
    assert "undecided" in text and "✓ holds" in text and "✗ fails" in text and "? open: at the floor" in text
    assert "voice, plain, trained, change from untrained: +0.70 [0.60, 0.80]" in text
    assert "−0.40 is below 0" in text


def test_another_arm_has_a_mark_of_its_own() -> None:
    data = example()
    data["arms"].append({"id": "twin", "title": "another character"})
    data["suites"]["robustness"]["numbers"].insert(3, number("voice", "twin", 0.33))
    page = Linked(evaluation.page(data))
    assert "▲ twin" in page.text and "0.33 [0.23, 0.43]" in page.text


def without(value: Any, keep: tuple[str, ...]) -> Any:
    """Everything None, but what says what a thing is."""
    if isinstance(value, dict):
        return {k: v if k in keep else without(v, keep) for k, v in value.items()}
    return [without(item, keep) for item in value] if isinstance(value, list) else None


def test_none_everywhere_does_not_crash() -> None:
    data = without(example(), ("id", "name", "arm", "kind", "verdict", "reference", "set", "predictor", "target", "x"))
    data["verdict"] = None
    page = Linked(evaluation.page(data))
    assert "no reason was recorded" in page.text
    bare = {**example(), "suites": {}, "verdict": None, "traits": [], "arms": [], "model": None}
    bare["provenance"] = {"keys": None, "recipe": None, "command": None, "environment": None}
    assert "Nothing was asked." in Linked(evaluation.page(bare)).text
    empty = example()
    for found in empty["suites"].values():
        found.update(numbers=[], details=None, rows=None)
    assert "No rows." in Linked(evaluation.page(empty)).text


def test_same_data_same_bytes(source: str) -> None:
    data = example()
    kept = copy.deepcopy(data)
    assert evaluation.page(data) == source
    assert data == kept
    assert evaluation.page(json.loads(json.dumps(data))) == source


def test_lines_have_gaps_and_survive_one_point() -> None:
    value = {"value": 0.5, "low": 0.4, "high": 0.6}
    arm = plots.Arm("trained", "final")
    whole = plots.lines("x", "<label>", [(arm, [(0, value), (1, value), (2, value)])], across="a", up="b")
    broken = plots.lines("x", "<label>", [(arm, [(0, value), (1, None), (2, value)])], across="a", up="b")
    assert whole != broken and "url(" not in whole and "&lt;label&gt;" in whole
    assert whole.count("<path") > broken.count("<path")
    assert "trained" in Page(plots.lines("x", "l", [(arm, [(3, value)])], across="a", up="b")).text


def test_forests_may_have_other_limits() -> None:
    rows = [("up", {"value": 1.5, "low": 1.0, "high": 9.0, "n": 4}), ("down", None)]
    text = Page(plots.forest("x", "l", rows, axis="strength", reference=0.0, limits=(-2.0, 2.0), total=False)).text
    assert "−2" in text and "−1" in text and "1.50 [1.00, 9.00]" in text
