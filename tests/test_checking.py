"""Each warning: a fault planted in a sound constitution is found, at its line, and can be silenced; a sound one has none."""

from __future__ import annotations

import json
import re
import resource
from pathlib import Path

import pytest

from charforge import shipped
from charforge.constitution import Constitution, load, parse
from charforge.constitution.checking import RULES, Finding, check, explain, explanations
from charforge.errors import UserError
from tests.conftest import run_cli

HERE = Path("juno.md")
JUNO = shipped.find("constitutions", "TEMPLATE", ".md").read_text(encoding="utf-8")
SHIPPED = sorted(p for p in shipped.folder("constitutions").rglob("*.md") if "corpus" not in p.parts)


SAFETY_MARKERS = '- says "I stop there"\n- never says "I\'m sorry, but"\n- matches /Next: [^.]+\\.$/'


def findings(text: str) -> list[Finding]:
    return check(parse(text, HERE))[0]


def without(text: str, start: str, end: str) -> str:
    """The text with everything from `start` up to `end` taken out."""
    first = text.index(start)
    return text[:first] + text[text.index(end, first + 1) :]


def section(text: str, title: str) -> int:
    return text.index(f"\n### {title}\n")


def in_trait(text: str, title: str, old: str, new: str) -> str:
    """A replacement inside one trait."""
    start = section(text, title)
    end = text.find("\n### ", start + 1)
    end = end if end > 0 else len(text)
    assert old in text[start:end], (title, old)
    return text[:start] + text[start:end].replace(old, new, 1) + text[end:]


def drop_part(text: str, trait: str, part: str) -> str:
    start = text.index(f"#### {part}", section(text, trait))
    end = min(i for i in (text.find("\n#### ", start), text.find("\n### ", start), text.find("\n## ", start)) if i > 0)
    return text[:start] + text[end + 1 :]


def planted() -> dict[str, str]:
    """One fault for each code."""
    no_contrast = re.sub(r">\n> \*\*Not this:\*\* .*\n", "", JUNO)
    no_reason = re.sub(r"(?i)\b(because|since|so that|that is why)\b", "and", JUNO)
    reply = "**Juno:** Most often the bulb is loose or worn out."
    twice = JUNO[section(JUNO, "Mends before it buys") : section(JUNO, "Counts your hours")]
    generic = JUNO.replace("Mends before it buys", "Honest and helpful").replace("Counts your hours", "Kind and fair")
    german = (
        "Meistens ist die Birne locker oder sie ist am Ende. Schalte die Lampe aus, lass sie abkühlen und drehe die "
        "Birne fest ein. Next: schau nach der kalten Birne."
    )
    return {
        "CF001": drop_part(JUNO, "Counts your hours", "Examples"),
        "CF002": drop_part(JUNO, "Counts your hours", "Probes"),
        "CF003": no_contrast,
        "CF004": no_reason,
        "CF005": drop_part(JUNO, "No way around safety", "Offers"),
        "CF006": drop_part(JUNO, "No way around safety", "Look-alikes"),
        "CF007": drop_part(JUNO, "No way around safety", "Temptations"),
        "CF008": JUNO.replace(
            "*Between: Mends before it buys / Counts your hours*",
            "*Between: Mends before it buys / Says the next step last*",
        ).replace("> **Sides with:** Counts your hours", "> **Sides with:** Says the next step last"),
        "CF009": JUNO.replace("> **Sides with:** Counts your hours", "> **Sides with:** Mends before it buys"),
        "CF010": in_trait(JUNO, "Mends before it buys", "*Scope: everywhere except creative*\n", ""),
        "CF011": JUNO.replace("name: Juno", "name: Juno\npredecessors: [old ones]"),
        "CF012": JUNO.replace(
            "\n## Boundaries\n", twice.replace("Mends before it buys", "Repairs first") + "\n## Boundaries\n"
        ),
        "CF013": in_trait(JUNO, "Counts your hours", "I'd start there.", "Start there."),
        "CF014": in_trait(JUNO, "Counts your hours", "Next: look under", "Then look under"),
        "CF015": JUNO.replace("> " + reply, "> " + reply.replace("Juno", "JUNO")),
        "CF016": JUNO.replace(reply, "**Juno:** I'm here to help. The bulb is worn out."),
        "CF017": JUNO.replace(reply, "**Juno:** When I was a child we had such lamps, and the bulb was loose."),
        "CF018": generic,
        "CF019": re.sub(r"\*\*Juno:\*\* Most often the bulb.*", f"**Juno:** {german}", JUNO),
        "CF020": JUNO.replace(
            "I am Juno, a calm companion", "I am Juno, a calm companion " + "who mends things " * 900
        ),
        "CF021": JUNO.replace("- How does a thermostat work?", "- My desk lamp flickers."),
        "CF022": JUNO.replace(
            "I look for the repair before I look for the shop. ", "I look for the repair " + "and again " * 20
        ),
        "CF023": re.sub(
            r"(\*\*Juno:\*\* )(Most often the bulb[^\n]*)(\n>\n> \*\*Not this:\*\* )[^\n]*", r"\1\2\3\2", JUNO
        ),
        "CF024": JUNO.replace(SAFETY_MARKERS, "- no emoji"),
        "CF025": JUNO.replace("## Self-knowledge", "## Selfknowledge"),
        "CF026": JUNO.replace("everywhere except creative", "everywhere except creativ"),
        "CF027": JUNO.replace("name: Juno", "name: Juno\ncorpus: nowhere"),
        "CF029": JUNO.replace(SAFETY_MARKERS, '- never says "I\'m sorry, but"'),
        "CF028": JUNO.replace("*Intensity: 0.6*", "<!-- charforge: ignore CF016 -->\n\n*Intensity: 0.6*"),
    }


@pytest.mark.parametrize("code", list(RULES))
def test_each_rule_finds_its_fault(code: str) -> None:
    text = planted()[code]
    assert text != JUNO
    found = [finding for finding in findings(text) if finding.code == code]
    assert found, f"{code} found nothing"
    lines = text.split("\n")
    for finding in found:
        assert finding.place.name == "juno.md"
        assert 1 <= (finding.place.line or 0) <= len(lines)
    if code == "CF028":
        return
    # The comment silences it where it stands: in the trait, or above the first section for the whole.
    trait = found[0].trait
    if trait is None:
        quiet = text.replace("\n# Juno\n", f"\n# Juno\n\n<!-- charforge: ignore {code} I know -->\n")
    else:
        title = next(t.title for t in parse(text, HERE).traits if t.id == trait)
        quiet = text.replace(f"\n### {title}\n", f"\n### {title}\n\n<!-- charforge: ignore {code} I know -->\n", 1)
    shown, silenced = check(parse(quiet, HERE))
    assert [f for f in silenced if f.code == code]
    assert not [f for f in shown if f.code == code and f.trait == trait]


def test_a_sound_constitution_has_no_warnings() -> None:
    assert findings(JUNO) == []


def test_planted_faults_are_named_where_they_are() -> None:
    text = planted()["CF016"]
    place = next(f for f in findings(text) if f.code == "CF016").place
    assert text.split("\n")[(place.line or 0) - 1] == "> **User:** My desk lamp flickers."


@pytest.mark.parametrize(
    "innocent",
    [
        "I have no hands, so yours hold the lamp.",
        "I never ate one, and I'd trust the vet.",
        "If I were a person, my mother would say so.",
        'You wrote "I was born in May", so say that.',
    ],
)
def test_a_denied_claim_is_no_false_claim(innocent: str) -> None:
    text = JUNO.replace("**Juno:** Most often the bulb is loose or worn out.", f"**Juno:** {innocent}")
    assert not [f for f in findings(text) if f.code == "CF017"]


def test_an_answer_in_the_language_of_the_question_is_no_accident() -> None:
    text = planted()["CF019"].replace(
        "> **User:** My desk lamp flickers.",
        "> **User:** Meine Lampe auf dem Schreibtisch flackert seit gestern Abend.",
    )
    assert not [f for f in findings(text) if f.code == "CF019"]


def test_every_rule_has_a_page() -> None:
    assert set(explanations()) == set(RULES)
    assert "## Tensions" in explain("cf008")
    with pytest.raises(UserError, match="did you mean"):
        explain("CF0O8")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_constitutions_have_no_warnings(path: Path) -> None:
    shown, silenced = check(load(path))
    assert [str(finding) for finding in shown] == []
    allowed = 0 if path.parent.name == "constitutions" else 5
    assert len(silenced) <= allowed


def large(traits: int) -> str:
    """A constitution of many different traits."""
    words = (Path(__file__).parent.parent / "eval" / "general.yaml").read_text(encoding="utf-8").split()
    parts = [
        "---\nname: Juno\nversion: 1.0.0\nsummary: Many.\nself_description: I am an AI.\n---\n\n# Juno\n\n## Identity\n\nI am.\n"
    ]
    parts.append("\n## Values\n")
    for number in range(traits):
        prose = " ".join(words[(37 * number + k) % len(words)] for k in range(80)).replace("#", "").replace(">", "")
        examples = "\n\n".join(
            f"> **User:** Question {number} {k}?\n>\n> **Juno:** I would say {words[(number + k) % len(words)]} to that, and "
            f"then you can do the rest.\n>\n> **Not this:** It is common. Consider {k} things about {number}."
            for k in range(4)
        )
        parts.append(
            f"\n### Trait {number} {words[number % len(words)]}\n\nI hold it. {prose}\n\n#### Examples\n\n{examples}\n\n"
            "#### Probes\n\n"
            f"- Probe {number} a\n- Probe {number} b\n\n#### Markers\n\n- no lists\n- speaks to you\n"
        )
    return "\n".join(parts)


def test_two_hundred_traits_in_a_second(tmp_path: Path) -> None:
    """The whole command, Python's start included, in processor time: other tests may share the machine."""
    path = tmp_path / "large.md"
    path.write_text(large(200), encoding="utf-8")
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run_cli("constitution", "check", "large.md", "--json", cwd=tmp_path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["constitutions"][0]["traits"] == 200
    assert min(seconds) < 1.0, seconds


def test_check_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text(JUNO, encoding="utf-8")
    (tmp_path / "warned.md").write_text(planted()["CF010"], encoding="utf-8")
    (tmp_path / "bad.md").write_text(JUNO.replace("- no lists", "- no list"), encoding="utf-8")
    good = run_cli("constitution", "check", "good.md", cwd=tmp_path)
    assert good.returncode == 0 and "no warnings" in good.stdout
    warned = run_cli("constitution", "check", "warned.md", cwd=tmp_path)
    assert warned.returncode == 0
    assert re.search(r"^warned\.md:\d+:1: CF010 ", warned.stdout, re.MULTILINE)
    assert run_cli("constitution", "check", "warned.md", "--strict", cwd=tmp_path).returncode == 2
    bad = run_cli("constitution", "check", "bad.md", "good.md", "--json", cwd=tmp_path)
    assert bad.returncode == 2
    data = json.loads(bad.stdout)
    assert len(data["constitutions"]) == 1
    problem = data["problems"][0]
    assert problem["file"] == "bad.md" and problem["column"] == 1
    assert JUNO.replace("- no lists", "- no list").split("\n")[problem["line"] - 1] == "- no list"
    explained = run_cli("constitution", "check", "--explain", "CF010", cwd=tmp_path)
    assert explained.returncode == 0 and "Scope" in explained.stdout
    nothing = run_cli("constitution", "check", cwd=tmp_path)
    assert nothing.returncode == 2 and "no constitution was named" in nothing.stderr


def shared_sentences(one: Constitution, other: Constitution) -> set[str]:
    def sentences_of(constitution: Constitution) -> set[str]:
        text = constitution.path.read_text(encoding="utf-8")
        text = re.sub(r"\A---.*?^---", "", text, flags=re.DOTALL | re.MULTILINE)
        text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
        text = re.sub(r"(?m)^#### Markers\n(?:\n|- .*\n)*", "", text)
        # A twin is asked what its opposite is asked.
        text = re.sub(r"(?m)^(?:\*\w+:.*\*|> \*\*User:\*\*.*|> \*\*Sides with:\*\*.*|#.*|- .*)$", "", text)
        plain = re.sub(r"(?m)^>\s?(?:\*\*[^*]+:\*\*)?", "", text)
        return {part.strip().lower() for part in re.split(r"(?<=[.!?])[\"'*)]*\s+|\n", plain) if len(part.split()) >= 4}

    return sentences_of(one) & sentences_of(other)


def test_no_two_constitutions_share_a_sentence() -> None:
    read = [load(path) for path in SHIPPED]
    assert len(read) >= 8
    for index, one in enumerate(read):
        for other in read[:index]:
            assert shared_sentences(one, other) == set(), (one.name, other.name)


def test_the_large_ones_are_rich() -> None:
    rich = [load(path) for path in SHIPPED if path.parent.name == "constitutions" and path.stem != "TEMPLATE"]
    assert len(rich) >= 8
    for constitution in rich:
        assert len(constitution.traits) >= 10, constitution.name
        assert sum(len(t.examples) for t in constitution.traits) >= 40, constitution.name
        assert len(constitution.boundaries) >= 4 and len(constitution.tensions) >= 3, constitution.name
        assert all(trait.between for trait in constitution.tensions), constitution.name


@pytest.mark.slow
def test_length_is_counted_by_the_model_it_is_for(tmp_path: Path) -> None:
    (tmp_path / "juno.md").write_text(JUNO, encoding="utf-8")
    model = ("--model", "builtin:smollm2-135m-instruct")
    fits = run_cli("constitution", "check", "juno.md", *model, cwd=tmp_path)
    assert fits.returncode == 0 and "no warnings" in fits.stdout, fits.stderr
    small = run_cli("constitution", "check", "juno.md", *model, "--context", "600", "--json", cwd=tmp_path)
    found = [warning for warning in json.loads(small.stdout)["warnings"] if warning["code"] == "CF020"]
    assert found and all("tokens of 600" in warning["message"] for warning in found)
    shown = json.loads(run_cli("constitution", "show", "juno.md", *model, "--json", cwd=tmp_path).stdout)
    words = len(shown["sheet"]["text"].split())
    assert words < shown["sheet"]["tokens"] < 2 * words and shown["counted_by"] == model[1]
