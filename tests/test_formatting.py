"""Canonical form: the same constitution, the same form twice; and no text, however broken, crashes the reader."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charforge import shipped
from charforge.constitution import parse
from charforge.constitution.checking import check
from charforge.constitution.formatting import canonical
from charforge.errors import CharforgeError, Problems
from tests.conftest import SMALL, run_cli

HERE = Path("here.md")
TEMPLATE = shipped.find("constitutions", "TEMPLATE", ".md").read_text(encoding="utf-8")

UGLY = """---
version: 1.0.0
name:   Pip
---
Pip
===

<!-- a note
over lines -->
Intro   text
[link]: https://example.org
## Voice ##
### Asks   back
I ask.
_intensity: 0.50_
*scope: everywhere except Code and emergencies*
#### examples
>**user:** Hello
>
>
>**PIP:** Hi.
> Who?
>
> **not this:** Hi.
#### probes
* one question
* another
  that goes on
+ third
#### MARKERS
- ends with a question.
"""

TIDY = """---
name: Pip
version: 1.0.0
---

# Pip

<!-- a note
over lines -->

Intro   text
[link]: https://example.org

## Voice

### Asks back

I ask.

*Intensity: 0.50*

*Scope: everywhere except Code and emergencies*

#### Examples

> **User:** Hello
>
> **Pip:** Hi.
> Who?
>
> **Not this:** Hi.

#### Probes

- one question
- another that goes on
- third

#### Markers

- ends with a question.
"""


def test_layout() -> None:
    assert canonical(UGLY, HERE) == TIDY


def test_dials_stand_apart() -> None:
    text = SMALL.replace("*Intensity: 0.9*", "_intensity: 0.9_\n*SCOPE: only code*")
    formatted = canonical(text, HERE)
    assert "*Intensity: 0.9*\n\n*Scope: only code*\n" in formatted
    assert parse(formatted, HERE) == parse(text, HERE)


def test_comments_and_silences_stay() -> None:
    text = SMALL.replace("#### Probes", "<!-- charforge: ignore CF010 -->\n\n#### Probes", 1)
    formatted = canonical(text, HERE)
    assert formatted.count("<!-- charforge: ignore CF010 -->") == 1
    assert len(parse(formatted, HERE).silenced) == 1


WORD = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=12)
LINE = st.one_of(
    st.lists(WORD, min_size=1, max_size=8).map(" ".join),
    st.sampled_from(
        ["a", "*b*", "1. c", "`d`", "- e", "> f", "# g", "    h", "[i]: j", "---", "<b>k</b>", "l\\", "&amp;"]
    ),
)


@st.composite
def constitutions(draw: st.DrawFn) -> str:
    """Texts in the format, with the layout that writers come up with and anything at all in the prose."""

    def gap() -> str:
        return "\n" * draw(st.integers(1, 3))

    quote = draw(st.sampled_from(["> ", ">"]))
    bullet = draw(st.sampled_from(["- ", "* ", "+ ", "-   "]))
    parts = [f"---\nversion: 1.{draw(st.integers(0, 99))}.0\nname: Pip\n---\n\n# Pip\n\nI am Pip.\n"]
    for number in range(draw(st.integers(1, 3))):
        section = draw(st.sampled_from(["Voice", "Values", "Self-knowledge"]))
        parts.append(f"\n## {section} {number}{gap()}{draw(LINE)}\n\n### Trait {number}\n\n{draw(LINE)}{gap()}")
        parts.append(f"\n*Intensity: {draw(st.floats(0, 1)):.2f}*\n" if draw(st.booleans()) else "")
        parts.append("\n<!-- note -->\n" if draw(st.booleans()) else "")
        parts.append(f"\n#### {draw(st.sampled_from(['Examples', 'examples', 'EXAMPLES']))}\n\n")
        for _ in range(draw(st.integers(1, 2))):
            parts.append(
                f"{quote}**User:** {draw(LINE)}\n>\n{quote}**Pip:** {draw(LINE)}\n{quote}{draw(LINE)}\n"
                + (f">\n{quote}**Not this:** {draw(LINE)}\n" if draw(st.booleans()) else "")
                + "\n"
            )
        parts.append(f"#### Probes\n\n{bullet}{draw(LINE)}\n{bullet}{draw(LINE)}\n")
    return "".join(parts)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(constitutions())
def test_round_trip(text: str) -> None:
    try:
        before = parse(text, HERE)
    except CharforgeError:
        return  # what stands in the prose can break the format; then there is nothing to format
    formatted = canonical(text, HERE)
    assert parse(formatted, HERE) == before
    assert parse(formatted, HERE).digest == before.digest
    assert canonical(formatted, HERE) == formatted


def test_most_generated_texts_are_constitutions() -> None:
    """Else the test above would be passing on nothing."""
    good: list[bool] = []

    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(constitutions())
    def count(text: str) -> None:
        try:
            parse(text, HERE)
            good.append(True)
        except CharforgeError:
            good.append(False)

    count()
    assert sum(good) / len(good) > 0.4


_PIECES = [
    "", "#", "## ", "### ", "#### ", "> ", ">", "- ", "---", "***", "```", "<!--", "-->", "**", "**User:**", "*Intensity: ", "*",
    "\t", "    ", "\x00", "\u2028", "\ufeff", "{name}", "[x]: y", "&", "\\", "💥", "ß", "1. ", "| a |", "include: x.md", ": ",
    "!!python/object:os.system", "&a *a", "{{", "2020-13-45", "1e400", "~", "council:", "- voice: x", "corpus: .",
    "matches /(/", 'says "', "*Scope: only", "*Between: a / b*", "*Evidence:",
    "#### Temptations", "#### Offers", "<div>", "<!-- charforge: ignore CF",
]  # fmt: skip


def _mutate(draw: random.Random, text: str) -> str:
    lines = text.split("\n")
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(lines))
        kind = draw.randrange(7)
        if kind == 0:
            lines.insert(at, draw.choice(_PIECES) + draw.choice(lines))
        elif kind == 1 and len(lines) > 1:
            del lines[at]
        elif kind == 2:
            other = draw.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 3:
            cut = draw.randint(0, len(lines[at]))
            lines[at] = lines[at][:cut] + draw.choice(_PIECES) + lines[at][cut:]
        elif kind == 4:
            lines[at] = lines[at][: draw.randint(0, len(lines[at]))]
        elif kind == 5:
            lines[at] = draw.choice(_PIECES)
        else:
            lines[at : at + 1] = lines[at : at + draw.randint(1, 9)] * 2
    return "\n".join(lines)


def test_ten_thousand_broken_files() -> None:
    """Whatever an author does to a file, they get a constitution or a list of places."""
    draw = random.Random(0)
    parsed = failed = 0
    for number in range(10_000):
        text = _mutate(draw, SMALL)
        if number % 10 == 0:
            text = _mutate(draw, text)
        try:
            constitution = parse(text, HERE)
        except CharforgeError as error:
            failed += 1
            problems = error.problems if isinstance(error, Problems) else (error,)
            for problem in problems:
                assert problem.place is not None and problem.place.line, (problem.message, text)
                assert problem.message
        else:
            parsed += 1
            if number % 20 == 0:
                check(constitution)
            if number % 50 == 0:
                formatted = canonical(text, HERE)
                assert parse(formatted, HERE) == constitution
    assert parsed > 1000 and failed > 1000, (parsed, failed)


def test_bytes_that_are_no_text_have_a_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.md"
    path.write_bytes(SMALL.encode().replace(b"I lost my key.", b"I lost \xff\xfe."))
    done = run_cli("constitution", "check", "bad.md", cwd=tmp_path)
    line = SMALL.split("\n").index("> **User:** I lost my key.") + 1
    assert done.returncode == 2 and f"bad.md:{line}:" in done.stderr and "UTF-8" in done.stderr


def test_fmt_command(tmp_path: Path) -> None:
    (tmp_path / "ugly.md").write_text(UGLY, encoding="utf-8")
    assert run_cli("constitution", "fmt", "ugly.md", "--check", cwd=tmp_path).returncode == 2
    assert (tmp_path / "ugly.md").read_text(encoding="utf-8") == UGLY
    done = run_cli("constitution", "fmt", "ugly.md", cwd=tmp_path)
    assert done.returncode == 0 and "formatted ugly.md" in done.stdout
    assert (tmp_path / "ugly.md").read_text(encoding="utf-8") == TIDY
    again = run_cli("constitution", "fmt", "ugly.md", "--check", "--json", cwd=tmp_path)
    assert again.returncode == 0 and re.search(r'"changed": \[\]', again.stdout)


@pytest.mark.parametrize("path", sorted(shipped.folder("constitutions").rglob("*.md")), ids=lambda p: p.stem)
def test_shipped_constitutions_are_in_canonical_form(path: Path) -> None:
    if "corpus" in path.parts:
        pytest.skip("no constitution")
    text = path.read_text(encoding="utf-8")
    assert canonical(text, path) == text
