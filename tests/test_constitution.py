"""The constitution's format: what it means, and where it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charforge import shipped
from charforge.constitution import load, parse
from charforge.data.contexts import judge, split_examples, teacher
from charforge.errors import CharforgeError, Problems, UserError
from charforge.markers import parse_marker
from charforge.recipe import Recipe
from tests.conftest import SMALL

HERE = Path("here.md")


def problems_of(text: str) -> list[str]:
    try:
        parse(text, HERE)
    except Problems as error:
        return [str(problem) for problem in error.problems]
    except UserError as error:
        return [str(error)]
    return []


def test_small_constitution() -> None:
    found = parse(SMALL, HERE)
    assert found.reference == "pip@1.0.0"
    assert [t.id for t in found.traits] == ["asks-back", "forges-nothing"]
    voice, boundary = found.traits
    assert voice.intensity == 0.9 and not voice.is_boundary and boundary.is_boundary
    assert voice.summary == "I end every reply with a question."
    assert len(voice.examples) == 3 and voice.examples[0].why == "It shuts the door at the end."
    assert voice.examples[0].prompt == [{"role": "user", "content": "How long do I boil an egg?"}]
    assert voice.probes[1] == "What is a hedge?"
    assert boundary.look_alikes[1] == "How do I spot a fake coin?"
    assert voice.line == SMALL.splitlines().index("### Asks back") + 1


def test_every_shipped_constitution_parses() -> None:
    paths = sorted(shipped.folder("constitutions").glob("*.md"))
    assert len(paths) >= 2
    for path in paths:
        load(path)


def test_wren_is_rich() -> None:
    wren = load(shipped.find("constitutions", "wren", ".md"))
    assert len(wren.traits) >= 12 and len(wren.boundaries) >= 4
    assert sum(len(t.examples) for t in wren.traits) >= 40
    prompts = [p for t in wren.traits for p in (*t.probes, *t.look_alikes)]
    prompts += [e.prompt[-1]["content"] for t in wren.traits for e in t.examples]
    assert len(prompts) == len(set(prompts))
    for trait in wren.traits:
        for example in trait.examples:
            assert example.contrast, f"{trait.id}: an example without contrast"
            assert parse_marker("ends with a question").shows(example.reply)
            assert not parse_marker("ends with a question").shows(example.contrast)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("**Pip:** Six", "**Pipp:** Six"), "unknown speaker 'Pipp'; did you mean 'Pip'?"),
        (
            ("#### Probes\n\n- How", "#### Probs\n\n- How"),
            "unknown part 'Probs' of a trait; did you mean 'Probes'?",
        ),
        (("- no lists", "- no list"), "unknown marker 'no list'; did you mean 'no lists'?"),
        (("*Intensity: 0.9*", "*Intensity: 9*"), "intensity '9' is not a number from 0 to 1"),
        (("version: 1.0.0", "version: one"), "version 'one' is not like 1.0.0"),
        (("summary: A", "sumary: A"), "unknown key 'sumary'; did you mean 'summary'?"),
        (("### Forges nothing", "### Asks back"), "defined twice (first on line"),
        (("name: Pip\n", ""), "name: field required"),
    ],
)
def test_mistakes_have_a_line_and_a_remedy(change: tuple[str, str], expected: str) -> None:
    assert change[0] in SMALL
    text = SMALL.replace(*change, 1)
    found = problems_of(text)
    assert any(expected in problem for problem in found), found
    assert all(problem.startswith("here.md:") for problem in found)


def test_a_mistake_names_its_line() -> None:
    text = SMALL.replace("- no lists", "- no list")
    line = text.splitlines().index("- no list") + 1
    assert problems_of(text)[0].startswith(f"here.md:{line}:")


def test_all_problems_at_once() -> None:
    text = SMALL.replace("- no lists", "- no list").replace("*Intensity: 0.9*", "*Intensity: x*")
    assert len(problems_of(text)) == 2


def test_no_traits() -> None:
    assert "no traits" in problems_of("---\nname: A\nversion: 1.0.0\n---\n\n# A\n\nWords.\n")[0]


def test_missing_file_names_neighbours(tmp_path: Path) -> None:
    (tmp_path / "wren.md").write_text(SMALL)
    with pytest.raises(UserError, match="no such constitution") as error:
        load(tmp_path / "ren.md")
    assert "wren.md" in str(error.value)


def test_a_trait_s_digest_follows_its_content_only() -> None:
    before = parse(SMALL, HERE)
    moved = parse(SMALL.replace("# Pip\n", "# Pip\n\n<!-- a note -->\n"), Path("elsewhere.md"))
    assert [t.digest for t in before.traits] == [t.digest for t in moved.traits]
    edited = parse(SMALL.replace("Look in the coat first.", "Look in the bag first."), HERE)
    assert before.traits[0].digest != edited.traits[0].digest
    assert before.traits[1].digest == edited.traits[1].digest


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([*SMALL.splitlines(), "> x", "####", "- ", "***", "<!-- a", "---"]), max_size=60))
def test_no_text_crashes_the_parser(lines: list[str]) -> None:
    try:
        parse("\n".join(lines), HERE)
    except CharforgeError as error:
        assert "here.md:" in str(error)


def test_contexts_hold_no_heldout_example() -> None:
    constitution = load(shipped.find("constitutions", "wren", ".md"))
    recipe = Recipe.model_validate({"constitution": "x", "model": "builtin:smollm2-135m-instruct"})
    share = recipe.judge.heldout_examples
    kept = {e.reply for t in constitution.traits for e in split_examples(t, share)[1]}
    assert len(kept) >= 30
    shown = {m["content"] for m in judge(constitution, recipe)}
    for trait in constitution.traits:
        shown |= {m["content"] for m in teacher(constitution, trait, trait.probes[0], recipe)}
    assert not kept & shown


def test_teacher_context_shows_one_trait_only() -> None:
    constitution = parse(SMALL, HERE)
    recipe = Recipe.model_validate({"constitution": "x", "model": "builtin:smollm2-135m-instruct"})
    text = str(teacher(constitution, constitution.traits[0], "Hello there", recipe))
    assert "end every reply" in text and "deceive" not in text
