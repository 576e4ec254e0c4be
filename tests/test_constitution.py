"""The constitution's format: what it means, and where it is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charforge import shipped
from charforge.constitution import load, parse
from charforge.constitution.formatting import canonical
from charforge.data.contexts import judge, split_examples, teacher
from charforge.errors import CharforgeError, Problems, UserError
from charforge.markers import parse_marker
from charforge.recipe import Recipe
from tests.conftest import SMALL, run_cli

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


def test_wrapped_speeches_are_whole() -> None:
    """An editor's line breaks are no part of what is said; lists, code and breaks that were asked for are."""
    text = SMALL.replace(
        "> **Pip:** Six minutes for a soft one. What", "> **Pip:** Six minutes\n> for a soft one.\n> What"
    )
    assert parse(text, HERE) == parse(SMALL, HERE)
    listed = SMALL.replace(
        "> **Pip:** Six minutes for a soft one. What", "> **Pip:** Six:\n>\n> - soft\n> - firm\n>\n> What"
    )
    assert "- soft\n- firm" in parse(listed, HERE).traits[0].examples[0].reply
    identity = SMALL.replace("made on purpose to be", "made on\npurpose to be")
    assert parse(identity, HERE).identity == parse(SMALL, HERE).identity


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("## Boundaries", "# Boundaries", "is a title in the middle"),
        ("#### Probes", "### Probes", "'### Probes' would be a trait of that name"),
        ("#### Examples\n\n> **User:** How long", "> **User:** How long", "a dialogue stands in the prose"),
        ("*Intensity: 0.9*", "- Intensity: 0.9", "'Intensity' is not written as a dial"),
        ("*Intensity: 0.9*", "*Intensity = 0.9*", "'Intensity' is not written as a dial"),
        ("*Intensity: 0.9*", "*Intensity: 90%*", "write 0.9"),
        ("*Intensity: 0.9*", "<!-- open", "a comment is not closed"),
        ("I end every reply with a question.", "###Asks\n\nI end it.", "a heading needs a space after its #"),
        ("name: Pip", "name: User", "has a meaning of its own"),
        ("summary: A small", "summary: A: small", "stands in quotes"),
        ("**Pip:** Six", "Pip: Six", "its reply begins with **Pip:**"),
        ("- How do I sharpen", "\u2022 How do I sharpen", "does not begin with '- '"),
    ],
)
def test_what_writers_get_wrong(old: str, new: str, message: str) -> None:
    assert old in SMALL
    found = problems_of(SMALL.replace(old, new, 1))
    assert any(message in problem for problem in found), found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("> **Pip:** Six", "> **Pip**: Six"),
        ("> **Pip:** Six", "> **Pip\uff1a** Six"),
        ("Six minutes for a soft one.", "Six minutes <!-- check --> for a soft one."),
        ("It keeps the talk going.", "It keeps <!-- why? -->the talk going."),
        ("- What is a hedge?", "- What is a hedge? <!-- new -->"),
        ("### Asks back", "### Asks back <!-- rename? -->"),
    ],
)
def test_other_ways_that_mean_the_same(old: str, new: str) -> None:
    text = SMALL.replace(old, new, 1)
    assert text != SMALL and parse(text, HERE).digest == parse(SMALL, HERE).digest


def test_two_spellings_that_look_alike_are_alike() -> None:
    text = SMALL.replace("Pip", "Zo\u00eb")
    mixed = text.replace("**Zo\u00eb:** Six", "**Zoe\u0308:** Six")
    assert parse(mixed, HERE) == parse(text, HERE)


def test_a_flood_is_shortened(tmp_path: Path) -> None:
    (tmp_path / "x.md").write_text(SMALL.replace("\n> ", "\n"), encoding="utf-8")
    done = run_cli("constitution", "check", "x.md", cwd=tmp_path)
    assert done.returncode == 2 and "more like this" in done.stderr
    assert len(done.stderr.splitlines()) < 40
    data = json.loads(run_cli("constitution", "check", "x.md", "--json", cwd=tmp_path).stdout)
    assert len(data["problems"]) > 20
    (tmp_path / "word.md").write_bytes(b"PK\x03\x04\x00\xff")
    assert "this is no text" in run_cli("constitution", "check", "word.md", cwd=tmp_path).stderr
    # A name without its ending, and a shipped one in capitals.
    (tmp_path / "pip.md").write_text(SMALL, encoding="utf-8")
    assert "pip@1.0.0" in run_cli("constitution", "check", "pip", "TOVE", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    "dials",
    [
        "*Intensity: 0.4*\n\n*Scope: only code*",
        "*Intensity: 0.4*\n*Scope: only code*",
        "_intensity: 0.4_\n**SCOPE: only\ncode**",
        "Intensity: 0.4\n*Scope: only code*",
        "**Intensity:** 0.4\n\nScope: only code",
        "*Intensity*: 0.4\n\n*Scope: only in code.*",
    ],
)
def test_dials_as_people_write_them(dials: str) -> None:
    for text in (SMALL.replace("*Intensity: 0.9*", dials), SMALL.replace("\n\n*Intensity: 0.9*", f"\n{dials}")):
        trait = parse(text, HERE).traits[0]
        assert trait.intensity == 0.4 and str(trait.where) == "only code"
        assert trait.prose == "I end every reply with a question. It keeps the talk going."
        formatted = canonical(text, HERE)
        assert "\n\n*Intensity: 0.4*\n\n*Scope: only " in formatted and parse(formatted, HERE) == parse(text, HERE)


def test_a_mistyped_dial_is_an_error_and_a_sentence_is_none() -> None:
    found = problems_of(SMALL.replace("*Intensity: 0.9*", "*Intensty: 0.9*"))
    assert "unknown dial 'Intensty'; did you mean 'Intensity'?" in found[0]
    prose = SMALL.replace("*Intensity: 0.9*", "Evidence: there is none, and scope: I do not care.\n\n*Note: a note.*")
    trait = parse(prose, HERE).traits[0]
    assert "Evidence: there is none" in trait.prose and "*Note: a note.*" in trait.prose


def test_front_matter_takes_one_or_many() -> None:
    one = parse(SMALL.replace("version: 1.0.0", "version: 1.0.0\nlanguage: en-GB\nauthors: me"), HERE)
    assert one.front.language == ("en-GB",) and one.front.authors == ("me",)
    two = parse(SMALL.replace("version: 1.0.0", "version: 1.0.0\nlanguage: [en, german]"), HERE)
    assert two.front.language == ("en", "german")
    assert (
        "no language 'klingon'" in problems_of(SMALL.replace("version: 1.0.0", "version: 1.0.0\nlanguage: klingon"))[0]
    )
    twice = problems_of(SMALL.replace("version: 1.0.0", "version: 1.0.0\nname: Pop"))
    assert "'name' appears twice" in twice[0] and twice[0].startswith("here.md:4:")
    unclosed = problems_of(SMALL.replace("---\n\n# Pip", "# Pip", 1))
    assert "not closed" in unclosed[0]


def test_tensions_name_two_traits() -> None:
    tension = """
## Tensions

### Short or kind

I choose, because both matter.

*Between: Asks back / Forges nothing*

#### Examples

> **User:** A.
>
> **Pip:** B?
>
> **Sides with:** Asks back
"""
    found = parse(SMALL + tension, HERE).tensions[0]
    assert found.between == ("asks-back", "forges-nothing") and found.examples[0].sides_with == "asks-back"
    for old, new, message in (
        ("/ Forges nothing*", "/ Forges nothin*", "names no trait 'Forges nothin'; did you mean 'Forges nothing'?"),
        ("/ Forges nothing*", "*", "between two traits, not 1"),
        ("/ Forges nothing*", "/ Asks back*", "two different traits"),
        ("**Sides with:** Asks back", "**Sides with:** Ask back", "did you mean 'Asks back'?"),
        ("## Tensions", "## Values", "belongs into a trait of the section Tensions"),
    ):
        assert any(message in problem for problem in problems_of((SMALL + tension).replace(old, new))), message
