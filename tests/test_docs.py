"""The docs: generated pages are fresh, links lead somewhere, examples work, and every prompt template has a use."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from charforge.constitution import parse
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
# Made from the report of a real run, when there is one.
PICTURES = {"docs/images/report.png"}
PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md"), *(REPOSITORY / "eval").glob("*.md")])


def prose(page: Path) -> str:
    """A page without its code, which may hold anything."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    code = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#{1,6} +(.+)$", code.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_generated_pages_are_fresh() -> None:
    command = [sys.executable, str(DOCS / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_there_are_pages() -> None:
    names = {page.name for page in PAGES}
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "install.md", "constitution.md", "report.md"} <= names
    assert len(list((DOCS / "adr").glob("*.md"))) >= 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.is_relative_to(REPOSITORY.resolve()), target
        assert found.exists() or target in PICTURES, target
        if anchor:
            assert anchor in anchors(found), target


def test_readme_names_the_two_commands() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text and "make test" in text


def test_every_stage_of_the_demo_is_in_the_docs() -> None:
    from charforge import pipeline, shipped

    names = [stage.name for stage in pipeline.load_plan(shipped.find("recipes", "demo", ".yaml")).stages]
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert [name for name in names if f"`{name}`" not in readme] == []


def test_the_example_constitution_is_one() -> None:
    text = (DOCS / "constitution.md").read_text(encoding="utf-8")
    example = re.search(r"```markdown\n(.*?)```", text, re.DOTALL)
    assert example is not None
    found = parse(example[1], Path("example.md"))
    for trait in found.traits:
        for authored in trait.examples:
            assert all(marker.shows(authored.reply) for marker in trait.markers)
            assert authored.contrast and not all(marker.shows(authored.contrast) for marker in trait.markers)


def test_every_prompt_template_is_used() -> None:
    package = REPOSITORY / "charforge"
    templates = {path.stem for path in (package / "data" / "prompts").glob("*.md")}
    code = "\n".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    assert templates
    assert set(re.findall(r'prompts\.render\(\s*"(\w+)"', code)) == templates
    digested = {
        name for names in re.findall(r"prompts\.digest\(([^)]*)\)", code) for name in re.findall(r'"(\w+)"', names)
    }
    assert digested == templates, "the text of a template must be part of the keys of the stages that use it"
