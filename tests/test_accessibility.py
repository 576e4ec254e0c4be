"""The pages in a browser: for everybody, on paper and on a phone, without a network, and whatever a model wrote."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from charforge.report import comparison, evaluation, training
from tests.conftest import accessibility_problems
from tests.test_compare import example as comparison_data
from tests.test_evaluation_page import example as evaluation_data
from tests.test_evaluation_page import reply
from tests.test_report import example_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Route

pytestmark = pytest.mark.xdist_group("browser")

PAGES = ("report", "evaluation", "comparison")
_BREAKS_OUT = "</details></main></style><style>*{display:none}"
HOSTILE = (
    "<script>window.ran = 1; alert(1)</script><img src=x onerror='window.ran = 1'><svg onload='window.ran = 1'></svg>"
    f"<a href='javascript:window.ran=1'>x</a> \x1b]0;title\x07\x1b[31mred a\u202ebc\u2066d {_BREAKS_OUT}"
)
SHOWN = f"⟦U+001B⟧]0;title⟦U+0007⟧⟦U+001B⟧[31mred a⟦U+202E⟧bc⟦U+2066⟧d {_BREAKS_OUT}"


def hostile_report() -> dict[str, Any]:
    data = example_report()
    data["samples"][0]["replies"]["dpo"] = data["samples"][1]["prompt"] = data["warnings"][0] = HOSTILE
    data["traits"][0]["title"] = data["character"]["summary"] = HOSTILE
    return data


def hostile_evaluation() -> dict[str, Any]:
    data = evaluation_data()
    found = data["suites"]["robustness"]
    found["rows"][0]["text"] = found["numbers"][0]["name"] = found["rows"][2]["condition"] = HOSTILE
    found["details"]["of another form"] = {"plain": {"asked": 3, HOSTILE: HOSTILE}}
    data["traits"][0]["title"] = data["verdict"]["words"] = HOSTILE
    return data


def hostile_comparison() -> dict[str, Any]:
    data = comparison_data("one", "two", "three")
    data["most_changed"][0]["prompt"] = data["most_changed"][0]["replies"][1]["text"] = data["warnings"][0] = HOSTILE
    data["traits"][0]["title"] = HOSTILE
    return data


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each page with what a hostile model wrote in it."""
    folder = tmp_path_factory.mktemp("pages")
    sources = {
        "report": training.page(hostile_report()),
        "evaluation": evaluation.page(hostile_evaluation()),
        "comparison": comparison.page(hostile_comparison()),
    }
    for name, source in sources.items():
        (folder / f"{name}.html").write_text(source, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in sources}


@dataclass
class Visit:
    """A page that was opened, and what it should never do."""

    page: Page
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def unfold(self) -> None:
        self.page.evaluate("for (const node of document.querySelectorAll('details')) node.open = true")


Open = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Opens a file as a page; when the test is over nothing of it must have run, asked the network or complained."""
    visits: list[Visit] = []

    def open_(path: Path, width: int = 1200, scheme: Literal["light", "dark"] = "light", script: bool = True) -> Visit:
        context: BrowserContext = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=script
        )
        visited = Visit(context.new_page())

        def answer(route: Route) -> None:
            if route.request.url == path.as_uri():
                route.continue_()
            else:
                visited.asked.append(route.request.url)
                route.abort()

        context.set_default_timeout(8000)
        context.route("**/*", answer)
        visited.page.on("console", lambda message: visited.said.append(f"{message.type}: {message.text}"))
        visited.page.on("pageerror", lambda error: visited.said.append(str(error)))

        def dialog(found: Any) -> None:
            visited.said.append(f"dialog: {found.message}")
            found.dismiss()

        visited.page.on("dialog", dialog)
        visited.page.goto(path.as_uri())
        visits.append(visited)
        return visited

    yield open_
    for visited in visits:
        assert visited.asked == [] and visited.said == []
        assert visited.page.evaluate("window.ran") is None


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_axe_finds_nothing(
    pages: dict[str, Path], visit: Open, name: str, scheme: Literal["light", "dark"], width: int
) -> None:
    there = visit(pages[name], width, scheme)
    there.unfold()
    assert accessibility_problems(there.page) == []
    # The page itself never scrolls sideways; what is wide does so in its own box, which the keyboard reaches.
    assert there.page.evaluate("document.documentElement.scrollWidth") <= width
    wide = there.page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(b => b.scrollWidth > b.clientWidth).map(b => b.tabIndex)"
    )
    assert set(wide) <= {0} and (width > 400 or wide)


@pytest.mark.parametrize("name", PAGES)
def test_what_a_model_wrote_is_shown_and_not_run(pages: dict[str, Path], visit: Open, name: str) -> None:
    there = visit(pages[name])
    there.unfold()
    text = there.page.evaluate("document.body.innerText")
    assert SHOWN in text and "<script>window.ran = 1; alert(1)</script><img src=x" in text
    assert there.page.locator("main img, main script, main style, main a[href^='javascript']").count() == 0


@pytest.mark.parametrize("name", PAGES)
def test_figures_and_tables_say_what_they_are(pages: dict[str, Path], visit: Open, name: str) -> None:
    page = visit(pages[name]).page
    figures = page.evaluate(
        """[...document.querySelectorAll("svg")].map((svg) => [svg.getAttribute("role"), svg.querySelector("title")?.textContent,
            document.getElementById(svg.getAttribute("aria-describedby"))?.textContent])"""
    )
    assert figures and all(role == "img" and title and about for role, title, about in figures)
    tables = page.evaluate(
        """[...document.querySelectorAll("table")].map((table) => [table.caption?.textContent ?? "",
            [...table.querySelectorAll("th")].every((th) => th.scope)])"""
    )
    assert tables and all(caption.strip() and scoped for caption, scoped in tables)
    assert len({caption for caption, _ in tables}) == len(tables)
    first = page.evaluate("[...document.querySelectorAll('main h2')].map((h) => h.textContent)")
    assert first[0] == "Summary" and first[-1] == "Provenance"
    assert page.locator("header, nav, main, footer").count() == 4


def test_the_first_stop_skips_to_the_summary_and_is_seen(pages: dict[str, Path], visit: Open) -> None:
    page = visit(pages["report"]).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    box = page.locator(".skip").bounding_box()
    assert box is not None and box["x"] >= 0
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#summary"


# --- search and filter ------------------------------------------------------------------------------------------------


def counted(page: Page, wanted: str) -> None:
    """The count says this, soon."""
    page.wait_for_function("(wanted) => document.getElementById('filter-found').textContent === wanted", arg=wanted)


def test_transcripts_are_searched_with_the_keyboard_alone(pages: dict[str, Path], visit: Open) -> None:
    page = visit(pages["report"]).page
    counted(page, "4 of 4 prompts")
    page.locator("#filter-words").focus()
    page.keyboard.type('number "reply 2 of"')
    counted(page, "1 of 4 prompts")
    assert page.evaluate("CSS.highlights.get('sought').size") > 0
    shown = page.locator(".sample:visible")
    assert shown.count() == 1 and "Reply 2 of prompted." in shown.inner_text()
    page.keyboard.press("Escape")
    counted(page, "4 of 4 prompts")
    for _ in range(4):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "filter-outcome"
    page.keyboard.type("in character")
    counted(page, "1 of 4 prompts")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    counted(page, "4 of 4 prompts")
    assert page.evaluate("document.activeElement.id") == "filter-words"


def test_transcripts_are_filtered_by_trait_kind_and_arm(pages: dict[str, Path], visit: Open) -> None:
    page = visit(pages["report"]).page
    page.select_option("#filter-trait", "harm")
    counted(page, "2 of 4 prompts")
    page.select_option("#filter-kind", "look-alike")
    counted(page, "1 of 4 prompts")
    page.select_option("#filter-arm", "sft")
    counted(page, "1 of 4 prompts")
    assert page.locator(".sample .reply:visible h4").all_inner_texts() == ["▲ sft"]
    page.fill("#filter-words", "nowhere to be found")
    counted(page, "0 of 4 prompts")
    assert page.locator(".sample:visible").count() == 0


def test_only_what_is_shown_of_a_prompt_is_searched(pages: dict[str, Path], visit: Open) -> None:
    page = visit(pages["report"]).page
    page.fill("#filter-words", '"reply 2 of prompted"')
    counted(page, "1 of 4 prompts")
    page.select_option("#filter-arm", "sft")
    counted(page, "0 of 4 prompts")
    page.fill("#filter-words", "reply number")
    counted(page, "3 of 4 prompts")


def test_what_is_typed_on_any_keyboard_is_found(tmp_path: Path, visit: Open) -> None:
    data = example_report()
    data["samples"][0]["replies"]["sft"] += " I don't. How nai\u0308ve."
    path = tmp_path / "page.html"
    path.write_text(training.page(data), encoding="utf-8")
    page = visit(path).page
    page.evaluate("location.hash = '%E0%A4%A'")
    for typed, fits in (
        ("\u201creply 2 of\u201d", 1), ("reply of", 3), ("\u201cof reply\u201d", 0), ("don\u2019t", 1), ("na\u00efve", 1),
        ("(.*", 0), ("[a-z", 0), ("\\", 0),
    ):  # fmt: skip
        page.fill("#filter-words", typed)
        counted(page, f"{fits} of 4 prompts")


def test_rows_are_filtered_unfolded_and_found_from_a_number(pages: dict[str, Path], visit: Open) -> None:
    page = visit(pages["evaluation"]).page
    counted(page, "22 of 22 rows")
    page.fill("#filter-words", '"Reply 2 of trained under prefill"')
    counted(page, "1 of 22 rows")
    assert page.locator("#rows .row:visible").count() == 1
    page.select_option("#filter-kind", "choice")
    counted(page, "0 of 22 rows")
    page.fill("#filter-words", "")
    counted(page, "2 of 22 rows")
    page.select_option("#filter-outcome", "no answer")
    counted(page, "1 of 22 rows")
    # A number leads to its rows whatever was filtered before.
    page.click("a[href='#rows-robustness-prefill-5-untrained'] >> nth=0")
    counted(page, "22 of 22 rows")
    page.wait_for_selector("#rows-robustness-prefill-5-untrained[open]")
    assert "Reply 2 of untrained under prefill 5." in page.locator("#rows-robustness-prefill-5-untrained").inner_text()


def test_the_filter_hides_nothing_that_is_led_to(pages: dict[str, Path], visit: Open) -> None:
    page = visit(pages["evaluation"]).page
    # As wide as the names of real suites and traits make them.
    page.evaluate("for (const box of document.querySelectorAll('.filter select')) box.style.width = '11rem'")
    for width, height in ((1200, 900), (1000, 700), (700, 800), (600, 400), (1200, 450)):
        page.set_viewport_size({"width": width, "height": height})
        page.evaluate("""() => {
            document.activeElement.blur();
            scrollTo(0, 0);
            document.querySelector('a[href="#rows-robustness-prefill-5-untrained"]').click();
        }""")
        page.wait_for_function("""() => {
            const led = document.activeElement, box = led.getBoundingClientRect();
            return led.tagName === "SUMMARY"
                && [box.top + 2, box.bottom - 2].every((y) => led.contains(document.elementFromPoint(box.left + 5, y)));
        }""")
        stays = page.evaluate("""() => {
            const bar = document.getElementById("filter");
            return getComputedStyle(bar).position === "sticky" ? bar.offsetHeight : 0;
        }""")
        assert stays <= height / 4, "what stays in sight leaves room for what it filters"


def test_without_a_script_everything_can_be_read(pages: dict[str, Path], browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["report"].as_uri())
    assert page.locator(".sample:visible").count() == 4 and not page.locator("#filter").is_visible()
    page.goto(pages["evaluation"].as_uri())
    reply_2 = page.get_by_text("Reply 2 of trained under plain.")
    assert not reply_2.is_visible()
    for wanted in ("#rows-robustness", "#rows-robustness-plain", "#rows-robustness-plain-trained"):
        page.locator(f"{wanted} > summary").click()
    assert reply_2.is_visible()


def test_thousands_of_rows_stay_usable(tmp_path: Path, visit: Open) -> None:
    data = evaluation_data()
    data["suites"]["robustness"]["rows"] = [
        reply("robustness", condition, arm, index, trait="question")
        for condition in ("plain", "prefill 5")
        for arm in ("untrained", "prompted", "trained")
        for index in range(1000)
    ]
    path = tmp_path / "many.html"
    path.write_text(evaluation.page(data), encoding="utf-8")
    page = visit(path, 390).page
    counted(page, "6004 of 6004 rows")
    spent = page.evaluate(
        """() => { const start = performance.now(); const words = document.getElementById("filter-words");
            const arm = document.getElementById("filter-arm");
            arm.value = "trained"; arm.dispatchEvent(new Event("input"));
            return new Promise((done) => setTimeout(() => {
              words.value = '"reply 77 of"'; words.dispatchEvent(new Event("input"));
              setTimeout(() => { document.body.offsetHeight; done(performance.now() - start); }, 151); }, 1)); }"""
    )
    counted(page, "2 of 6004 rows")
    assert spent < 4000, f"two filters took {spent:.0f} ms"


# --- on paper ---------------------------------------------------------------------------------------------------------


PAPER = 688
"""Pixels between the margins of an A4 sheet."""


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_on_paper(pages: dict[str, Path], visit: Open, name: str) -> None:
    page = visit(pages[name], PAPER).page
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    cut = page.evaluate(
        """[...document.querySelectorAll("table, svg, pre, .replies")].filter((node) => node.checkVisibility()
            && node.getBoundingClientRect().right > document.body.getBoundingClientRect().right + 1)
            .map((node) => (node.caption ?? node).textContent.trim().slice(0, 80))"""
    )
    assert cut == []
    assert not page.locator("nav").is_visible() and not page.locator("#filter-words").is_visible()


def test_what_is_folded_is_printed_but_not_every_row(pages: dict[str, Path], visit: Open) -> None:
    page = visit(pages["report"], PAPER).page
    page.emulate_media(media="print")
    folded = page.get_by_role("cell", name="1.00 [0.70, 1.00]").first
    assert folded.evaluate("(node) => node.checkVisibility()")
    assert page.evaluate("document.querySelectorAll('details[open]').length") == 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.querySelectorAll('details[open]').length") == 0
    rows = visit(pages["evaluation"], PAPER).page
    rows.emulate_media(media="print")
    rows.evaluate("dispatchEvent(new Event('beforeprint'))")
    one = rows.get_by_text("Reply 2 of trained under plain.")
    assert not one.evaluate("(node) => node.checkVisibility()")
    assert rows.locator("#rows-robustness > summary").evaluate("(node) => node.checkVisibility()")
    rows.evaluate("location.hash = '#rows-robustness-plain-trained'")
    rows.wait_for_selector("#rows-robustness-plain-trained[open]")
    assert one.evaluate("(node) => node.checkVisibility()"), "what was unfolded is printed"


@pytest.mark.parametrize("name", PAGES)
def test_the_page_becomes_a_pdf(pages: dict[str, Path], visit: Open, tmp_path: Path, name: str) -> None:
    sheet = visit(pages[name]).page.pdf(format="A4", prefer_css_page_size=True)
    assert sheet.startswith(b"%PDF-") and len(re.findall(rb"/Type */Page\b", sheet)) >= 3
    if shutil.which("pdftotext"):
        (tmp_path / "page.pdf").write_bytes(sheet)
        done = subprocess.run(["pdftotext", tmp_path / "page.pdf", "-"], capture_output=True, text=True, check=True)
        text = re.sub(r"\s+", " ", done.stdout)
        assert "Summary" in text and "How to reproduce" in text and "charforge" in text
        held = {
            "report": "Reply 3 of prompted.",
            "evaluation": "Does it hold?",
            "comparison": "Untouched, and moved",
        }
        assert held[name] in text
