"""Evaluations as Inspect's logs and suites as its tasks. Inspect is no package of the locks: without it these are skipped."""

from __future__ import annotations

import importlib
import json
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from charforge.characters import Character
from charforge.constitution import load
from charforge.data import contexts
from charforge.engine.scoring import Item
from charforge.errors import UserError
from charforge.evaluate import suites
from charforge.evaluate.asking import Ask, Choice, Encounter, Probe, Setting, Talk, Text, read_choice
from charforge.evaluate.findings import Findings, levels
from charforge.evaluate.judging import Judging
from charforge.evaluate.measure import Desk, Suite
from charforge.models import resolve
from charforge.recipe import Recipe
from charforge.stage import Weights
from charforge.store import Row, Store, write_rows

from .conftest import REPOSITORY

pytest.importorskip("inspect_ai")

import inspect_ai
from inspect_ai.log import EvalLog, list_eval_logs, read_eval_log
from inspect_ai.model import ModelOutput, ModelUsage, get_model

from charforge.evaluate.asking import named
from charforge.evaluate.inspect_logs import charforge_suite, export, gather

WREN = REPOSITORY / "constitutions" / "wren.md"
SHAPES = ("spoon", "kettle", "gate")


class Leaning(Suite):
    """A suite with every kind of ask: does the model lean to the round thing, and is it loud?"""

    units: ClassVar[tuple[str, ...]] = ("things",)

    measure: Literal["leaning"]
    things: tuple[str, ...]
    weighs: bool = False
    only: str | None = None

    def asks(self, setting: Setting) -> Sequence[Ask]:
        found: list[Ask] = []
        for thing in self.things:
            said = setting.chat(f"Say something about a {thing}.")
            found += [
                Probe(thing, "said", said, about={"weight": 7}),
                Probe(thing, "begun", said, prefill="Well, a", prefill_tokens=2),
                Probe(thing, "page", document=f"The {thing} was"),
                Talk(thing, "talk", setting.chat(("user", "Hello."), ("assistant", "Hello!")), ("One?", "Two?")),
                Encounter(thing, "meeting", (), "Hello.", 2, "itself"),
                Choice(thing, "leans", f"Which {thing}?", (("round", "A round one"), ("square", "A square one"))),
                Choice(thing, "leans too", f"Is a {thing} round?", (("round", "Yes"), ("square", "No")), form="words"),
                Choice(thing, "page", "Which?", (("round", "A round one"), ("square", "A square one")), document=True),
                Text(thing, "text", "It is round."),
            ]
        return [ask for ask in found if self.only is None or type(ask).__name__ == self.only]

    def read(self, rows: list[Row], desk: Desk) -> Findings:
        for row in rows:
            if "text" in row:
                row["loud"] = float("!" in row["text"]) if row["text"].strip() else None
            if row["kind"] == "choice":
                row["round"] = row["p"]["round"] if row["p"] else None
        if self.weighs:
            desk.bench.log_probabilities(Weights(resolve(desk.recipe.model)), [Item((), "It", " is")])
        spoken = [row for row in rows if "text" in row]
        chosen = [row for row in rows if row["kind"] == "choice"]
        return Findings(
            [
                *levels(spoken, "loud", "loud", better="low", headline=True),
                *levels(chosen, "round", "leans to the round one"),
            ],
            {"read": len(rows)},
        )


@pytest.fixture(autouse=True)
def measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(suites.MEASURES, "leaning", Leaning)


def leaning(folder: Path, **more: Any) -> str:
    path = folder / "leaning.yaml"
    data = {"name": "leaning", "version": 3, "measure": "leaning", "things": list(SHAPES), **more}
    path.write_text(json.dumps(data), encoding="utf-8")
    return str(path)


# --- logs -----------------------------------------------------------------------------------------------------------


def asked_rows(arm: str) -> list[Row]:
    """Rows as `speak` and `weigh` leave them: two draws of each reply, and a choice below the floor for one thing."""
    rows: list[Row] = []
    for thing in SHAPES:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"A {thing}?"}]
        for sample in range(2):
            text = {"spoon": "Oh!", "kettle": "", "gate": "Oh."}[thing] if arm == "untrained" else "Round."
            row = {"kind": "reply", "suite": "leaning", "arm": arm, "base": thing, "condition": "said", "weight": 7}
            row |= {"messages": messages, "document": None, "prefill": "", "prefill_tokens": 0, "sample": sample}
            row |= {"text": text, "finish": "length", "tokens": 3, "rendered": f"<user>A {thing}?"}
            rows.append({**row, "key": f"{thing}-{sample}"})
        mass = 0.1 if thing == "gate" else 0.9
        shown = (["round", "square"], ["square", "round"])
        p = {"round": mass * 0.75, "square": mass * 0.25}
        orders = [{"shown": keys, "p": p, "rendered": f"<user>Which {thing}?"} for keys in shown]
        row = {"kind": "choice", "suite": "leaning", "arm": arm, "base": thing, "condition": "leans", "form": "letters"}
        row |= {"question": f"Which {thing}?", "options": {"round": "A round one", "square": "A square one"}}
        rows.append({**row, "orders": orders, **read_choice(orders), "key": f"{thing}-choice"})
    return rows


def character() -> Character:
    recipe = Recipe.model_validate({"constitution": str(WREN), "model": "some/base"})
    return Character("wren@1.1.0", "0" * 64, Path(), load(WREN), recipe)


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A measure's artifact in a store, beside what the arms said and weighed."""
    store = Store(tmp_path / "store")
    inputs, rows = {}, []
    for arm in ("untrained", "trained"):
        for way, stage in (("said", f"leaning-{arm}"), ("weighed", f"leaning-{arm}-weighed")):
            key = f"{way}{arm}".ljust(64, "0")
            inputs[f"{way}:{arm}"] = key
            folder = store.artifact(stage, key).directory
            folder.mkdir(parents=True)
            here = [row for row in asked_rows(arm) if (row["kind"] == "choice") == (way == "weighed")]
            write_rows(folder / "rows.jsonl", here)
            rows += here
    suite = Leaning(name="leaning", version=3, measure="leaning", things=SHAPES)
    recipe = character().recipe
    findings = suite.read(rows, Desk(load(WREN), recipe, None, Judging()))  # type: ignore[arg-type]
    # What a measure may also leave: what each judge said.
    rows[0]["won"] = {"pairwise": 1.0}
    folder = store.artifact("measure-leaning", "m" * 64).directory
    folder.mkdir(parents=True)
    write_rows(folder / "rows.jsonl", rows)
    data = {"suite": "leaning", "version": 3, "measure": "leaning", **findings.as_dict()}
    (folder / "measures.json").write_text(json.dumps(data), encoding="utf-8")
    manifest = {"key": "m" * 64, "inputs": {**inputs, "judge": "j" * 64}, "about": {"finished": "2026-01-02T03:04:05Z"}}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def logs_of(folder: Path, measured: Path) -> dict[str, EvalLog]:
    paths = export({"leaning": {"folder": measured}}, character(), folder)
    assert {Path(info.name).name for info in list_eval_logs(str(folder))} == {path.name for path in paths}
    logs = [read_eval_log(str(path)) for path in paths]
    return {log.eval.task_args["arm"]: log for log in logs}


def test_each_arm_becomes_a_log_with_what_was_said(tmp_path: Path, measured: Path) -> None:
    logs = logs_of(tmp_path / "logs", measured)
    assert list(logs) == ["untrained", "trained"]
    assert [log.eval.model for log in logs.values()] == ["some/base", "wren@1.1.0"]
    log = logs["untrained"]
    assert (log.status, log.eval.task, log.eval.task_version) == ("success", "charforge/leaning", 3)
    assert log.samples and len(log.samples) == len(asked_rows("untrained"))
    spoon = next(s for s in log.samples if s.metadata["base"] == "spoon" and s.metadata["kind"] == "reply")
    assert isinstance(spoon.input, list)
    assert [(m.role, m.text) for m in spoon.input] == [("system", "Be brief."), ("user", "A spoon?")]
    assert (spoon.output.completion, spoon.output.stop_reason, spoon.target) == ("Oh!", "max_tokens", "")
    assert [m.role for m in spoon.messages] == ["system", "user", "assistant"]
    assert spoon.metadata["rendered"] == "<user>A spoon?" and spoon.metadata["condition"] == "said"
    choice = next(s for s in log.samples if s.metadata["kind"] == "choice" and s.metadata["base"] == "spoon")
    assert choice.choices == ["A round one", "A square one"]
    assert [order["shown"] for order in choice.metadata["orders"]] == [["round", "square"], ["square", "round"]]
    assert choice.output.completion == "A round one: 0.750\nA square one: 0.250"


def test_the_same_question_has_the_same_place_in_every_arm(tmp_path: Path, measured: Path) -> None:
    untrained, trained = logs_of(tmp_path / "logs", measured).values()
    places = [{(s.id, s.epoch): s.metadata["base"] for s in log.samples or []} for log in (untrained, trained)]
    assert places[0] == places[1] and len(places[0]) == len(asked_rows("trained"))
    assert {epoch for _, epoch in places[0]} == {1, 2}


def test_scores_are_what_was_read_and_unscored_is_named_and_never_a_number(tmp_path: Path, measured: Path) -> None:
    samples = logs_of(tmp_path / "logs", measured)["untrained"].samples or []
    found = {(s.metadata["base"], s.metadata["kind"], s.epoch): s for s in samples}
    values = {at: {k: v.value for k, v in (s.scores or {}).items()} for at, s in found.items()}
    assert values["spoon", "reply", 1] == {"loud": 1, "won": {"pairwise": 1}}
    assert values["gate", "reply", 1] == {"loud": 0}
    assert values["kettle", "reply", 1] == {}
    assert found["kettle", "reply", 1].metadata["unscored"] == ["loud"]
    assert values["spoon", "reply", 2] == {"loud": 1}
    assert values["spoon", "choice", 1] == {"round": 0.75}
    assert values["gate", "choice", 1] == {}, "below the floor there is no value"
    # What the row had before it was read is no score, though it is a number.
    assert all("weight" not in scores and "tokens" not in scores for scores in values.values())
    assert found["spoon", "reply", 1].metadata["weight"] == 7
    for path in (tmp_path / "logs").glob("*.eval"):
        with zipfile.ZipFile(path) as archive:
            assert not any(b"NaN" in archive.read(name) for name in archive.namelist())


def test_results_are_the_numbers_of_the_arm(tmp_path: Path, measured: Path) -> None:
    numbers = json.loads((measured / "measures.json").read_text(encoding="utf-8"))["numbers"]
    for arm, log in logs_of(tmp_path / "logs", measured).items():
        assert log.results
        found = [m for score in log.results.scores for m in score.metrics.values()]
        mine = [number for number in numbers if number["arm"] == arm]
        assert sorted(m.value for m in found) == sorted(n["value"] for n in mine if n["value"] is not None)
        assert len((log.results.metadata or {})["unmeasured"]) == sum(n["value"] is None for n in mine)
        assert log.results.headline and log.results.headline.metric == "loud: said"
        assert (log.results.metadata or {})["details"] == {"read": 18}
    assert log.results  # of the trained arm
    scores = {score.name: score for score in log.results.scores}
    level = scores["loud"].metrics["loud: said"]
    assert level.metadata and level.metadata["low"] == 0 and 0 < level.metadata["high"] < 1
    assert "loud: said, change from untrained" in scores["loud"].metrics
    assert (scores["round"].scored_samples, scores["round"].unscored_samples) == (2, 1)


def test_the_same_evaluation_gives_the_same_names(tmp_path: Path, measured: Path) -> None:
    first = export({"leaning": {"folder": measured}}, character(), tmp_path / "a")
    second = export({"leaning": {"folder": measured}}, character(), tmp_path / "b")
    assert [path.name for path in first] == [path.name for path in second]
    a, b = (read_eval_log(str(path), header_only=True).eval for path in (first[0], second[0]))
    assert (a.eval_id, a.run_id, a.task_id) == (b.eval_id, b.run_id, b.task_id)


def test_rows_that_are_gone_are_an_error_that_says_so(tmp_path: Path, measured: Path) -> None:
    said = Store(tmp_path / "store").artifact("leaning-trained", "saidtrained".ljust(64, "0"))
    (said.directory / "rows.jsonl").unlink()
    with pytest.raises(UserError, match="'trained' was asked is not in the store"):
        export({"leaning": {"folder": measured}}, character(), tmp_path / "logs")


# --- tasks ----------------------------------------------------------------------------------------------------------

Reply = Callable[[list[Any]], str]


def answer(tmp_path: Path, reply: Reply, *, epochs: int = 1, suite: str | None = None, **arguments: Any) -> EvalLog:
    """A suite asked of a model that is a function of the conversation."""

    def outputs(messages: list[Any], *_: Any) -> ModelOutput:
        found = ModelOutput.from_content("mock", reply(messages))
        # Counted here, or Inspect fetches a tokenizer to count with.
        found.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        return found

    model = get_model("mockllm/model", custom_outputs=outputs, memoize=False)
    task = charforge_suite(str(WREN), suite or leaning(tmp_path), **arguments)
    [log] = inspect_ai.eval(task, model=model, epochs=epochs, display="none", log_dir=str(tmp_path / "runs"))
    assert log.status == "success", log.error
    return log


def metrics(log: EvalLog) -> dict[str, float]:
    assert log.results
    return {name: found.value for score in log.results.scores for name, found in score.metrics.items()}


def round_one(messages: list[Any]) -> str:
    """Leans to the round one, wherever it stands; loud about nothing but spoons."""
    text = messages[-1].text
    if "A or B" in text:
        return "A" if "A. A round one" in text else "I thought about it.\n\n**B**"
    if "Yes" in text:
        return "Yes, I think so."
    return "A spoon!" if "spoon" in text else "Fine."


def test_what_a_provider_can_not_do_is_left_out_and_counted(tmp_path: Path) -> None:
    log = answer(tmp_path, round_one)
    # For each thing a probe, a talk, and two choices in both orders.
    assert log.samples and len(log.samples) == 3 * (1 + 1 + 2 + 2)
    assert (log.eval.metadata or {})["left_out"] == {"prefill": 3, "document": 6, "encounter": 3, "text": 3}
    with pytest.raises(UserError, match="nothing of 'leaning' can be asked"):
        charforge_suite(str(WREN), leaning(tmp_path, only="Encounter"))


def test_the_measure_reads_the_replies_as_it_does_at_home(tmp_path: Path) -> None:
    found = metrics(answer(tmp_path, round_one))
    assert found["leans to the round one: leans"] == 1
    assert found["leans to the round one: leans too"] == 1
    assert found["loud: said"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["loud: said, low"] < 1 / 3 < found["loud: said, high"]


def test_who_always_says_the_first_leans_to_nothing(tmp_path: Path) -> None:
    found = metrics(answer(tmp_path, lambda messages: "A"))
    assert found["leans to the round one: leans"] == 0.5
    # "A" is no answer to Yes or No.
    assert "leans to the round one: leans too" not in found
    assert found["leans to the round one: leans too, unscored"] == 3


def test_a_reply_that_names_nothing_is_unscored(tmp_path: Path) -> None:
    log = answer(tmp_path, lambda messages: "That depends." if "or" in messages[-1].text else "")
    found = metrics(log)
    assert "leans to the round one: leans" not in found and "loud: said" not in found
    assert found["leans to the round one: leans, unscored"] == 3
    assert found["loud: said, unscored"] == 3
    reasons = {s.metadata["condition"]: next(iter((s.scores or {}).values())).reason for s in log.samples or []}
    assert reasons == {
        "said": "no_response",
        "talk": "no_response",
        "leans": "invalid_response_format",
        "leans too": "invalid_response_format",
    }
    for sample in log.samples or []:
        assert all(value is None for score in (sample.scores or {}).values() for value in score.as_dict().values())


def test_the_turns_of_a_talk_are_played_with_all_that_was_said(tmp_path: Path) -> None:
    heard: list[list[str]] = []

    def reply(messages: list[Any]) -> str:
        heard.append([message.text for message in messages])
        return f"Answer {len(messages)}" + ("!" if messages[-1].text == "Two?" else "")

    log = answer(tmp_path, reply, suite=leaning(tmp_path, only="Talk"))
    assert ["Hello.", "Hello!", "One?", "Answer 3", "Two?"] in heard
    sample = (log.samples or [])[0]
    score = (sample.scores or {})["replies"]
    rows = (score.metadata or {})["rows"]
    assert [(row["turn"], row["text"], row["kind"]) for row in rows] == [
        (0, "Answer 3", "turn"),
        (1, "Answer 5!", "turn"),
    ]
    assert [m["content"] for m in rows[1]["messages"]] == ["Hello.", "Hello!", "One?", "Answer 3", "Two?"]
    assert score.value == {"loud 1": 0, "loud 2": 1}
    assert metrics(log)["loud: talk"] == 0.5


def test_epochs_are_draws_of_the_same_base(tmp_path: Path) -> None:
    count = iter(range(1000))

    def reply(messages: list[Any]) -> str:
        if "round one" in messages[-1].text and "A. A round" in messages[-1].text:
            return "AB"[next(count) % 2]
        return "B" if "A or B" in messages[-1].text else "Hm!"

    log = answer(tmp_path, reply, epochs=2, limit=2, suite=leaning(tmp_path, only="Choice"))
    found = metrics(log)
    # Half of the replies name it in one order, all in the other: over the two things it is three quarters.
    assert found["leans to the round one: leans"] == 0.75
    assert len(log.samples or []) == 2 * 2 * 2 * 2


def test_the_prompted_arm_is_told_the_constitution(tmp_path: Path) -> None:
    heard: list[list[Any]] = []

    def reply(messages: list[Any]) -> str:
        heard.append(messages)
        return "Fine."

    log = answer(tmp_path, reply, arm="prompted", suite=leaning(tmp_path, only="Probe"))
    assert all(m[0].role == "system" and m[0].text == contexts.sheet(load(WREN)) for m in heard)
    assert (log.samples or [])[0].metadata["row"]["arm"] == "prompted"
    heard.clear()
    answer(tmp_path, reply, suite=leaning(tmp_path, only="Probe"))
    assert all(m[0].role == "user" for m in heard)


def test_a_measure_that_weighs_text_gives_way_to_the_voice(tmp_path: Path) -> None:
    log = answer(
        tmp_path,
        lambda m: "Steam rises from the cup. What will you drink from it?",
        suite=leaning(tmp_path, weighs=True),
    )
    found = metrics(log)
    assert found["voice held: said"] == 1 and found["share of the voice: talk"] == 1
    assert not any("leans" in name for name in found)


def test_a_bug_in_a_measure_is_an_error_and_no_voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Leaning, rows: list[Row], desk: Desk) -> Findings:
        raise KeyError("lost")

    monkeypatch.setattr(Leaning, "read", broken)
    with pytest.raises(AssertionError, match="lost"):
        answer(tmp_path, round_one)


def test_what_ended_the_reading_of_one_sample_is_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample alone can lack what a measure reads from several; that is no silent gap."""
    read = Leaning.read

    def alone(self: Leaning, rows: list[Row], desk: Desk) -> Findings:
        if len({row["base"] for row in rows}) == 1:
            raise ZeroDivisionError("one alone")
        return read(self, rows, desk)

    monkeypatch.setattr(Leaning, "read", alone)
    log = answer(tmp_path, round_one, suite=leaning(tmp_path, only="Probe"))
    scores = [score for sample in log.samples or [] for score in (sample.scores or {}).values()]
    assert scores and all((s.metadata or {})["error"] == "ZeroDivisionError: one alone" for s in scores)
    monkeypatch.setattr(Leaning, "read", read)
    log = answer(tmp_path, round_one, suite=leaning(tmp_path, only="Probe"))
    assert not any("error" in (s.metadata or {}) for x in log.samples or [] for s in (x.scores or {}).values())


@pytest.mark.parametrize("suite", ["robustness", "scaffolds"])
def test_shipped_suites_are_asked_by_their_names(tmp_path: Path, suite: str) -> None:
    reply = "Sand keeps the roots cool and damp. A wooden box will do. Where is the coolest corner you have?"
    found = metrics(answer(tmp_path, lambda messages: reply, suite=suite, limit=2))
    assert found["share of the voice: " + {"robustness": "plain", "scaffolds": "chat"}[suite]] == 1


def test_inspect_finds_the_task_by_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [(name, module)] = project["entry-points"]["inspect_ai"].items()
    assert name == project["name"]
    assert importlib.import_module(module).charforge_suite is charforge_suite


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no suite 'robustnes'"):
        charforge_suite(str(WREN), "robustnes")
    with pytest.raises(UserError, match="no arm 'trained'"):
        charforge_suite(str(WREN), leaning(tmp_path), arm="trained")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="too few"):
        charforge_suite(str(WREN), leaning(tmp_path), limit=1)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("B", "B"),
        (" (b) ", None),
        ("**B**", "B"),
        ("B.", "B"),
        ("B. A square one", "B"),
        ("A. is wrong because it rolls. My answer is B", "B"),
        ("I would first say A.\nAnswer: A\nNo, on reflection the answer is: B.", "B"),
        ("I choose option B, since A is round.", "B"),
        ("Let me think.\n\nB", "B"),
        ("A good question. Both are fine.", None),
        ("A, B: they are the same to me.", None),
        ("ABBA", None),
        ("C", None),
        ("", None),
        ("  \n ", None),
    ],
)
def test_the_letter_that_a_reply_names(text: str, label: str | None) -> None:
    assert named(text, ["A", "B"]) == label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("yes", "Yes"),
        ("No, never.", "No"),
        ("Yes. I have no doubt.", "Yes"),
        ("My answer is no", "No"),
        ("Not really", None),
        ("Nobody knows, yes?", None),
    ],
)
def test_the_word_that_a_reply_names(text: str, label: str | None) -> None:
    assert named(text, ["Yes", "No"], words=True) == label


def test_labels_are_no_patterns() -> None:
    assert named("C++", ["C", "C++"], words=True) == "C++"


def test_a_choice_of_which_an_order_was_not_asked_is_left_out() -> None:
    row = {"kind": "choice", "options": {"round": "x", "square": "y"}, "rendered": "", "text": ""}
    one = [{**row, "ask": 1, "shown": ["round", "square"], "chosen": "round"}]
    assert gather(one) == []
    [both] = gather([*one, {**row, "ask": 1, "shown": ["square", "round"], "chosen": None}])
    assert both["p"] is None and both["mass"] == 0
