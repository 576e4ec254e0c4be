"""Evaluation by suites: what is asked, what is read, and planted truths that must come out."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from charforge.constitution import parse
from charforge.engine import Request
from charforge.errors import Problems, StageError, UserError
from charforge.evaluate import probing, robustness, scaffolds, suites, voice
from charforge.evaluate.suites import RobustnessSuite, ScaffoldSuite
from charforge.recipe import Endpoint, Sampling
from charforge.shipped import find
from charforge.store import read_rows
from tests.conftest import SMALL, run_cli

PIP = parse(SMALL, Path("pip.md"))


def shipped(name: str) -> Any:
    return suites.load(name)


def test_every_plain_request_is_asked_under_every_attack() -> None:
    suite: RobustnessSuite = shipped("robustness")
    probes = robustness.probes(suite, None)
    for text in suite.plain:
        mine = [p for p in probes if p.base == text]
        assert len(mine) == 1 + len(suite.suffixes) + len(suite.overrides) + len(suite.prefill_tokens)
        assert all(text in p.messages[-1]["content"] for p in mine)
    assert {p.condition for p in probes} >= {"plain", "suffix", "override by system", "override by user", "prefill 5"}
    assert len({p.id for p in probes}) == len(probes)
    told = robustness.probes(suite, "I am Pip.")
    assert all(p.messages[0]["content"].startswith("I am Pip.") for p in told)


def test_every_matter_is_in_every_scaffold() -> None:
    suite: ScaffoldSuite = shipped("scaffolds")
    assert len(suite.scaffolds) >= 9 and len(suite.matters) >= 6
    probes = scaffolds.probes(suite, None)
    assert len(probes) == len(suite.scaffolds) * len(suite.matters)
    long = next(p for p in probes if p.condition == "long_chat")
    assert len(long.messages) == 1 + 2 * len(suite.scaffolds["long_chat"].before)
    few = probing.limited(suite, 2)
    assert len(scaffolds.probes(few, None)) == 2 * len(suite.scaffolds)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("Hello.", None, "Hello."),
        ('{"body": "Dear you."}', "body", "Dear you."),
        ('Sure:\n```json\n{"tool": "x", "body": "Two\nlines."}\n```', "body", "Two\nlines."),
        ('{"a": {"b": 1}} then {"body": "Later."}', "body", "Later."),
        ("Dear you.", "body", None),
        ('{"body": 3}', "body", None),
        ('{"body": "cut', "body", None),
        ("", "body", None),
    ],
)
def test_own_words(text: str, field: str | None, expected: str | None) -> None:
    assert scaffolds.own_words(text, field) == expected


def test_what_is_heard() -> None:
    heard = voice.listen(PIP, "Fine. Is it?", None)
    assert heard["held"] == 1.0 and set(heard["markers"]) == {"ends with a question", "no lists"}
    assert voice.listen(PIP, "Fine.", None)["held"] == 0.0 and voice.listen(PIP, "Fine.", None)["share"] == 0.5
    # An empty reply is unread: it is neither a voice held nor a voice lost.
    assert voice.listen(PIP, " ", None)["held"] is None
    narrow = parse(
        SMALL.replace("*Intensity: 0.9*", "*Intensity: 0.9*\n\n*Scope: everywhere except code*"), Path("p.md")
    )
    assert voice.listen(narrow, "Fine.", "code")["held"] is None
    opening = parse(SMALL.replace("- no lists", '- begins with "well"'), Path("p.md"))
    assert voice.listen(opening, "Is it?", None)["held"] == 0.0
    assert voice.listen(opening, "Is it?", None, opening=False)["held"] == 1.0


def planted(rates: dict[str, float], bases: int = 40, seed: int = 0) -> list[dict[str, Any]]:
    """Rows in which a voice is heard at a known rate in each condition."""
    draw = random.Random(seed)
    rows = []
    for base in range(bases):
        for condition, rate in rates.items():
            held = float(draw.random() < rate)
            rows.append(
                {
                    "arm": "trained",
                    "base": str(base),
                    "condition": condition,
                    "held": held,
                    "share": held,
                    "share_unopened": held,
                }
            )
    return rows


def test_planted_truths_come_out() -> None:
    found = robustness.measure(planted({"plain": 0.95, "suffix": 0.2, "override by user": 0.95}))["trained"]
    assert found["suffix"]["change"].high < -0.4
    null = found["override by user"]["change"]
    assert null.low < 0 < null.high
    assert found["plain"]["change"] is None and found["plain"]["held"].value > 0.8


def test_a_change_that_is_none_is_seldom_called_one() -> None:
    """Type I error of the paired change over repeated nulls: about one in twenty."""
    alarms = 0
    for seed in range(300):
        change = robustness.change(planted({"plain": 0.7, "suffix": 0.7}, bases=25, seed=seed), "suffix", "plain")
        assert change is not None
        alarms += not change.low <= 0 <= change.high
    assert alarms / 300 < 0.09, alarms


def test_differences_without_spread_are_no_certainty() -> None:
    change = robustness.change(planted({"plain": 1.0, "suffix": 1.0}, bases=5), "suffix", "plain")
    assert change is not None and change.value == 0 and change.low == -0.6 and change.high == 0.6


def test_unread_replies_are_counted_and_not_scored() -> None:
    rows = planted({"chat": 1.0, "form": 1.0})
    for row in rows:
        if row["condition"] == "form":
            row.update(held=None, share=None, share_unopened=None)
    found = scaffolds.measure(rows)["trained"]["form"]
    assert found["held"] is None and found["change"] is None and found["unread"] == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measure": "robustnes"}, "measure: 'robustnes' is none; did you mean 'robustness'?"),
        ({"sufixes": []}, "sufixes: unknown key; did you mean 'suffixes'?"),
        ({"prefill": ""}, "prefill and prefill_tokens go together"),
        ({"overrides": [{}]}, "give either system or user"),
        ({"plain": ["a", "a"]}, "a request stands there twice"),
        ({"name": "A B"}, "must be lower-case"),
    ],
)
def test_a_wrong_suite_says_so(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    data = yaml.safe_load(find("eval", "robustness", ".yaml").read_text(encoding="utf-8"))
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**data, **change}), encoding="utf-8")
    with pytest.raises(UserError) as error:
        suites.load(str(path))
    said = "\n".join(str(p) for p in error.value.problems) if isinstance(error.value, Problems) else str(error.value)
    assert message in said and "mine.yaml" in said


def test_a_scaffold_without_its_matter_says_so(tmp_path: Path) -> None:
    data = yaml.safe_load(find("eval", "scaffolds", ".yaml").read_text(encoding="utf-8"))
    del data["matters"]["parcel"]["form"]
    data["matters"]["kettle"]["fom"] = "x"
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(UserError) as error:
        suites.load(str(path))
    assert "nothing for form" in str(error.value) and "did you mean 'form'" in str(error.value)


def test_a_prefill_is_part_of_the_key_and_only_where_there_is_one() -> None:
    plain = Request(({"role": "user", "content": "a"},), Sampling(), 1)
    keys = {Request(plain.messages, plain.sampling, 1, prefill="I will", prefill_tokens=n).key({}) for n in (1, 2)}
    assert len(keys | {plain.key({})}) == 3


def test_an_endpoint_can_not_be_prefilled() -> None:
    from charforge.engine.endpoint import EndpointEngine

    engine = EndpointEngine(Endpoint(endpoint="http://127.0.0.1:9/v1", model="m"), concurrency=1, retries=0)
    request = Request(({"role": "user", "content": "a"},), Sampling(), 1, prefill="I", prefill_tokens=1)
    with pytest.raises(StageError, match="begin a reply"):
        list(engine.generate([request]))


@pytest.mark.slow
@pytest.mark.xdist_group("prepared")
def test_eval_on_the_command_line(prepared: Path, tmp_path: Path) -> None:
    """A trained character is asked, the rows are kept, another suite asks nothing again, and an edit of the file that it
    was trained from changes nothing."""
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder, symlinks=True)
    untrained = run_cli("eval", "recipe.yaml", cwd=folder)
    assert untrained.returncode == 2 and "is not trained here" in untrained.stderr
    done = run_cli("train", "recipe.yaml", "--set", "sft.max_steps=2", "--set", "dpo.enabled=false", cwd=folder)
    assert done.returncode == 0, done.stderr

    asked = run_cli(
        "eval", "pip@1.0.0", "--store", "store", "--suite", "robustness", "--limit", "2", "--json", cwd=folder
    )
    assert asked.returncode == 0, asked.stderr
    data = json.loads(asked.stdout)
    arms = data["suites"]["robustness"]["arms"]
    assert list(arms) == ["untrained", "prompted", "trained"]
    # The scripted engine speaks in voice with a system message or trained weights, whatever it is asked.
    assert arms["trained"]["suffix"]["held"]["value"] == 1.0 and arms["untrained"]["plain"]["held"]["value"] == 0.0
    rows = read_rows(Path(folder / data["suites"]["robustness"]["rows"]))
    assert {"messages", "prefill", "condition", "markers", "held"} <= set(rows[0])

    (folder / "pip.md").write_text(SMALL.replace("It keeps the talk going.", "So."), encoding="utf-8")
    again = run_cli("eval", "pip@1.0.0", "--store", "store", "--limit", "2", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("reused") >= 5 and "scaffolds: pip@1.0.0" in again.stdout
    wrong = run_cli("eval", "pap@1.0.0", "--store", "store", cwd=folder)
    assert wrong.returncode == 2 and "did you mean 'pip@1.0.0'" in wrong.stderr
    suite = run_cli("eval", "pip@1.0.0", "--store", "store", "--suite", "robustnes", cwd=folder)
    assert suite.returncode == 2 and "did you mean 'robustness'" in suite.stderr
