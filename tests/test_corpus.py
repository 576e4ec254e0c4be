"""A draft from a corpus: passages, what is counted, what is cited, and a judge that knows the author."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from charforge import judge, shipped
from charforge.constitution import corpus, load, parse
from charforge.constitution.checking import check
from charforge.constitution.corpus import Claim, Passage
from charforge.data import claims
from charforge.errors import UserError
from charforge.recipe import Recipe
from tests.conftest import run_cli

THORNE = shipped.folder("constitutions") / "corpus" / "thorne"
VANE = shipped.folder("eval") / "passages" / "vane"
HERE = Path("here.md")


def writing(words: str, count: int = 30, sentence: int = 8) -> list[Passage]:
    """Passages of one manner of writing, all different."""
    pool = words.split()
    made = []
    for number in range(count):
        parts = [
            " ".join(pool[(number * 7 + k * sentence + i) % len(pool)] for i in range(sentence)).capitalize() + "."
            for k in range(6)
        ]
        made.append(Passage(" ".join([*parts, f"So it was in {number}."]), f"book, page {number}"))
    return made


def test_passages_keep_their_places() -> None:
    passages = corpus.read(THORNE)
    assert len(passages) == 72
    assert all(30 <= len(p.text.split()) <= 220 for p in passages)
    text = "\n".join(p.read_text(encoding="utf-8") for p in THORNE.glob("*.md"))
    for passage in passages:
        assert passage.source.split(", ", 1)[1] in text
        assert passage.text[:60] in " ".join(text.split())
    share = sum(p.held_out for p in passages) / len(passages)
    assert 0.15 < share < 0.5
    assert {p.id for p in passages if p.held_out} == {p.id for p in corpus.read(THORNE) if p.held_out}


def test_plain_text_is_cut_into_passages(tmp_path: Path) -> None:
    text = "\n\n".join(
        f"This is paragraph {n}, and it says something of its own about thing {n}. " * 4 for n in range(30)
    )
    (tmp_path / "all.txt").write_text(text + "\n\n" + "word " * 500 + ".", encoding="utf-8")
    passages = corpus.read(tmp_path / "all.txt")
    assert len(passages) >= 10
    assert all(len(p.text.split()) >= 30 for p in passages)


def test_too_little_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        corpus.read(tmp_path / "none")
    with pytest.raises(UserError, match=r"no \.md or \.txt"):
        corpus.read(tmp_path)
    (tmp_path / "a.txt").write_text("A few words.")
    with pytest.raises(UserError, match="too few to know somebody by"):
        corpus.read(tmp_path)


def test_a_planted_habit_is_found() -> None:
    plain = "rain falls over the hill and the road goes down to the mill where men mend nets by day"
    counting = writing(plain + " seven twelve forty nine")
    other = writing(plain)
    found = {habit.title: habit for habit in corpus.habits(counting, other)}
    assert "Counts and measures" in found
    habit = found["Counts and measures"]
    assert habit.t is not None and habit.t > 3 and habit.own > (habit.others or 0)
    assert all(quote in passage.text for quote, passage in habit.quotes)
    assert "Counts and measures" not in {h.title for h in corpus.habits(other, counting)}


def test_nothing_stands_out_between_two_halves_of_one_author() -> None:
    passages = corpus.read(THORNE)
    features = {f.name for f in corpus.FEATURES}
    found = [h for h in corpus.habits(passages[::2], passages[1::2]) if h.feature in features]
    assert found == []


def test_a_draft_cites_words_that_are_there(tmp_path: Path) -> None:
    done = run_cli("constitution", "from-corpus", str(THORNE), "--name", "Abigail", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "abigail.md"
    constitution = load(path)
    assert constitution.corpus is not None and constitution.corpus.resolve() == THORNE.resolve()
    own = " ".join(p.text for p in corpus.read(THORNE) if not p.held_out)
    assert len(constitution.traits) >= 2
    for trait in constitution.traits:
        quotes = re.findall(r'"([^"]+)"', trait.evidence[0])
        assert quotes and all(quote in own for quote in quotes)
        # Replies are the person's own words, none of them held out.
        assert trait.examples and all(example.reply in own for example in trait.examples)
    assert not {"CF027", "CF013", "CF021"} & {finding.code for finding in check(constitution)[0]}
    again = run_cli("constitution", "from-corpus", str(THORNE), "--name", "Abigail", cwd=tmp_path)
    assert again.returncode == 2 and "exists already" in again.stderr


def test_a_claim_without_its_words_is_dropped() -> None:
    passage = Passage(
        "I count the waves, and I write down nine of them before I sleep, every evening of the year.", "1840"
    )
    rows = [
        {"passage": passage.id, "text": "I count the waves before I sleep. More."},
        {"passage": passage.id, "text": "I am an AI assistant and I am glad to help you count."},
        {"passage": passage.id, "text": "I believe in the free movement of capital between nations."},
        {"passage": "gone", "text": "I count the waves before I sleep."},
    ]
    found = corpus.draft(
        "Ann", "letters", writing("a b c d e f g h"), [], [Claim("Counts", "I count.", "not there", passage)]
    )
    assert "## Values" not in found
    constitution = parse(
        "---\nname: Ann\nversion: 1.0.0\ncorpus: letters\n---\n\n# Ann\n\nI am.\n\n## Voice\n\n### A\n\nI a.\n\n"
        "#### Probes\n\n- b\n",
        HERE,
    )
    original = corpus.read
    try:
        corpus.read = lambda path: (passage,)  # type: ignore[assignment]
        kept = claims.gather(rows, constitution)
    finally:
        corpus.read = original  # type: ignore[assignment]
    assert [claim.prose for claim in kept] == ["I count the waves before I sleep."]
    assert kept[0].quote in passage.text


def test_the_shipped_persona_cites_its_corpus() -> None:
    thorne = load(shipped.find("constitutions", "thorne", ".md"))
    assert sum(bool(trait.evidence) for trait in thorne.traits) >= 10
    assert not [f for f in check(thorne)[0] if f.code == "CF027"]
    broken = thorne.path.read_text(encoding="utf-8").replace('*Evidence: "', '*Evidence: "never written ', 1)
    assert [f for f in check(parse(broken, thorne.path))[0] if f.code == "CF027"]


def test_a_corpus_judge_needs_a_corpus(tmp_path: Path) -> None:
    demo = str(shipped.find("recipes", "demo", ".yaml"))
    done = run_cli("train", demo, "--dry-run", "--set", "judge.kind=corpus", cwd=tmp_path)
    assert done.returncode == 2 and "names no corpus" in done.stderr
    thorne = str(shipped.find("constitutions", "thorne", ".md"))
    done = run_cli(
        "train", demo, "--dry-run", "--set", "judge.kind=corpus", "--set", f"constitution={thorne}", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_pairs_are_of_held_out_passages_and_close_in_words() -> None:
    constitution = load(shipped.find("constitutions", "thorne", ".md"))
    recipe = Recipe.model_validate({"constitution": "x", "model": "builtin:smollm2-135m-instruct"})
    pairs = judge.passage_pairs(constitution, recipe)
    assert len(pairs) >= 15
    assert all(mine.held_out for mine, _ in pairs)
    others = {p.id for p in corpus.read(VANE)}
    assert all(other.id in others for _, other in pairs)
    assert len({other.id for _, other in pairs}) == min(len(pairs), len(others))


@pytest.mark.slow
@pytest.mark.xdist_group("real")
def test_the_corpus_judge_knows_its_author(tmp_path: Path) -> None:
    """The real 135M model tells held-out passages of Thorne from Vane's, better than chance."""
    # A part of the letters takes less time, and leaves enough pairs to tell chance from knowledge.
    letters = tmp_path / "corpus" / "thorne"
    letters.mkdir(parents=True)
    for file in sorted(THORNE.glob("*.md"))[:5]:
        shutil.copyfile(file, letters / file.name)
    path = tmp_path / "thorne.md"
    shutil.copyfile(shipped.find("constitutions", "thorne", ".md"), path)
    found = judge.accuracy(run_corpus_judge(path, "builtin:smollm2-135m-instruct", tmp_path))
    assert found.n >= 12
    assert found.low > 0.5, found


def run_corpus_judge(constitution: Path, model: str, folder: Path) -> list[dict[str, object]]:
    """The corpus judge's margins, through the pipeline and its child process."""
    from charforge import pipeline
    from charforge.report import terminal
    from charforge.store import Store, read_rows

    recipe = Recipe.model_validate(
        {
            "constitution": str(constitution),
            "model": model,
            "judge": {"kind": "corpus", "second": "none"},
            "scenarios": {"bank": "-"},
        }
    )
    full = pipeline.plan_corpus(load(constitution), recipe)
    plan = pipeline.Plan(full.recipe, full.constitution, full.stages[1:], full.kind)
    store = Store(folder / "store")
    with terminal.display(plan) as display:
        pipeline.run(plan, store, display)
    stage = plan.stages[0]
    rows = read_rows(store.artifact(stage.name, stage.key).directory / "rows.jsonl")
    assert json.dumps(rows)
    return rows
