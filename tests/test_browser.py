"""The pages of a talk in a real browser: what is seen and done there, by mouse and by keys, and that nothing in it runs."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from charforge import talks
from charforge.report.text import visible
from charforge.store import Store
from tests.conftest import accessibility_problems
from tests.test_chat_web import NASTY, Probing, Scripted

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]


@contextlib.contextmanager
def served(party: Any, store: Store, **options: Any) -> Iterator[str]:
    """The server in a thread of this process; gives its address."""
    import uvicorn

    from charforge.chat import web

    app = web.application(party, store, probes=Probing(), **options)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
        assert thread.is_alive()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


class Visit:
    """One window, and what went wrong in it."""

    def __init__(self, browser: Any, url: str, path: str = "", **options: Any) -> None:
        self.context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **options}
        )
        self.context.set_default_timeout(20_000)
        self.page = self.context.new_page()
        self.troubles: list[str] = []
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("console", lambda m: self.troubles.append(m.text) if m.type == "error" else None)
        self.page.on("dialog", self._on_dialog)
        self.page.on("request", lambda request: self._on_request(request.url))
        self.url = url
        self.page.goto(url + path)
        self.page.wait_for_selector("html[data-ready]")

    def _on_dialog(self, dialog: Any) -> None:
        self.troubles.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def _on_request(self, url: str) -> None:
        if not url.startswith((self.url, "blob:", "file:", "data:")):
            self.troubles.append(f"asked for {url}")

    def say(self, text: str) -> None:
        """Say something and wait for all replies."""
        self.page.fill("#message", text)
        self.page.press("#message", "Enter")
        self.page.wait_for_function(
            "text => [...document.querySelectorAll('.said')].at(-1)?.textContent === text"
            " && !document.querySelector('[aria-busy]')",
            arg=text,
        )

    def replies(self, turn: int = -1) -> list[str]:
        found = self.page.locator(".turn").nth(turn).locator(".reply .text").all_text_contents()
        return [str(text) for text in found]

    def names(self) -> list[str]:
        return [str(text) for text in self.page.locator(".turn").last.locator(".reply h3").all_inner_texts()]

    def download(self, button: str) -> tuple[str, bytes]:
        with self.page.expect_download() as found:
            self.page.get_by_role("button", name=button).click()
        return str(found.value.suggested_filename), Path(found.value.path()).read_bytes()

    def scrolls_sideways(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth > innerWidth"))


Go = Any


@pytest.fixture
def go(browser: Any, tmp_path: Path) -> Iterator[Go]:
    """Opens a window on a server with these speakers; at the end nothing may have gone wrong in it."""
    with contextlib.ExitStack() as stack:
        visits: list[Visit] = []

        def open_(party: Any = None, store: Path | None = None, **options: Any) -> Visit:
            ours = {name: options.pop(name) for name in ("blind", "token", "talk") if name in options}
            url = stack.enter_context(served(party or Scripted(), Store(store or tmp_path / "store"), **ours))
            visits.append(Visit(browser, url, **options))
            stack.callback(visits[-1].context.close)
            return visits[-1]

        yield open_
        assert [trouble for visit in visits for trouble in visit.troubles] == []


# --- talking ----------------------------------------------------------------------------------------------------------


def test_replies_grow_side_by_side(go: Go) -> None:
    visit = go(Scripted(delay=0.05))
    visit.page.fill("#message", "one two three four five six seven eight nine ten")
    visit.page.press("#message", "Enter")
    visit.page.wait_for_selector(".reply [class='text waiting']", state="attached")
    lengths = set()
    while visit.page.locator("[aria-busy]").count():
        lengths.add(len(visit.replies()[0]))
        time.sleep(0.03)
    assert len(lengths) > 3, lengths
    assert [reply[-4:] for reply in visit.replies()] == ["by 1", "by 2"]
    assert visit.names() == ["◆ wren@1.1.0", "■ model:plainmodel"]
    boxes = [visit.page.locator(".reply").nth(place).bounding_box() for place in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    # The page can be left and found again.
    visit.page.reload()
    visit.page.wait_for_selector(".vote")
    assert [reply[-4:] for reply in visit.replies()] == ["by 1", "by 2"]


def test_a_page_that_nobody_sees_holds_no_connection(go: Go) -> None:
    visit = go(Scripted(delay=0.05))
    looks = """hidden => {
        Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    ended: list[str] = []
    visit.page.on("requestfailed", lambda request: ended.append(request.url))
    visit.page.fill("#message", "word " * 30)
    with visit.page.expect_request("**/stream"):
        visit.page.press("#message", "Enter")
    visit.page.wait_for_function("() => document.querySelector('.reply .text').textContent.length > 20")
    visit.page.evaluate(looks, True)
    visit.page.wait_for_timeout(200)
    assert [url[-7:] for url in ended] == ["/stream"]
    with visit.page.expect_request("**/stream"):
        visit.page.evaluate(looks, False)
    visit.page.wait_for_selector(".vote")
    assert [reply[-4:] for reply in visit.replies()] == ["by 1", "by 2"]
    assert visit.page.locator("#problem").is_hidden()


def test_stop(go: Go) -> None:
    visit = go(Scripted(delay=0.05))
    visit.page.fill("#message", "word " * 200)
    visit.page.press("#message", "Enter")
    visit.page.get_by_role("button", name="Stop").click()
    visit.page.wait_for_selector("text=stopped")
    assert len(visit.replies()[0]) < 700
    assert visit.page.get_by_role("button", name="Send").is_visible()


def test_settings_and_a_probe(go: Go, tmp_path: Path) -> None:
    visit = go()
    visit.page.click("text=Settings")
    visit.page.fill("#system", "Be brief.")
    visit.page.fill("#prefill", "Well, ")
    visit.page.fill("#temperature", "0.25")
    visit.page.fill("#tokens", "33")
    visit.say("Hello")
    assert "system message, beginning, temperature 0.25, 33 tokens" in visit.page.inner_text("#settings summary")
    assert visit.replies()[0].startswith("Well, Reply")
    visit.page.click("#probing summary")
    visit.page.click("#probe")
    visit.page.wait_for_selector(".markers")
    assert visit.page.locator(".turn").last.locator(".said").inner_text() == "What is a hedge?"
    assert "it was trained on this one" in visit.page.locator(".turn").last.inner_text()
    assert visit.page.locator(".markers").first.locator("li").all_inner_texts()[1].endswith("speaks of a hedge")
    (kept,) = talks.kept(Store(tmp_path / "store"))
    first, second = kept.turns.values()
    assert (first.system, first.prefill, first.sampling.temperature, first.sampling.max_tokens) == (
        "Be brief.",
        "Well, ",
        0.25,
        33,
    )
    assert second.trait == "asks-back"


def test_branches_by_edit_and_retry(go: Go) -> None:
    visit = go()
    visit.say("First")
    visit.say("Second")
    turn = visit.page.locator(".turn")
    turn.nth(0).get_by_role("button", name="Edit", exact=True).click()
    visit.page.locator(".editor textarea").fill("Other")
    visit.page.locator(".editor").get_by_role("button", name="Send").click()
    visit.page.wait_for_function(
        "() => document.querySelector('.said').textContent === 'Other' && !document.querySelector('[aria-busy]')"
    )
    visit.page.wait_for_selector(".vote")
    assert [turn.nth(0).locator(".said").inner_text(), turn.count()] == ["Other", 1]
    assert turn.nth(0).locator(".branches").inner_text().split() == ["‹", "2/2", "›"]
    turn.nth(0).get_by_role("button", name="The branch before").click()
    assert visit.page.locator(".said").all_inner_texts() == ["First", "Second"]
    turn.nth(1).get_by_role("button", name="Retry").click()
    visit.page.wait_for_function(
        "() => !document.querySelector('[aria-busy]') && document.body.innerText.includes('Reply 1 to')"
    )
    visit.page.wait_for_function("() => document.querySelectorAll('.turn')[1].querySelector('.branches')")
    assert turn.nth(1).locator(".branches").inner_text().split() == ["‹", "2/2", "›"]
    turn.nth(1).get_by_role("button", name="Edit what model:plainmodel said").click()
    visit.page.locator(".editor textarea").fill("My words")
    visit.page.get_by_role("button", name="Keep as a branch").click()
    visit.page.wait_for_selector("text=written by a person")
    assert visit.replies() == ["Reply 1 to Second by 1", "My words"]
    assert turn.nth(1).locator(".vote").count() == 0


def test_what_is_pressed_twice_is_said_once(go: Go, tmp_path: Path) -> None:
    visit = go()
    # Before the server can have answered.
    twice = "node => { for (const _ of [1, 2]) node(); }"
    visit.page.fill("#message", "Hello")
    visit.page.evaluate(f"({twice})(() => document.querySelector('#composer').requestSubmit())")
    visit.page.wait_for_selector(".vote")
    visit.page.evaluate(
        f"({twice})(() => [...document.querySelectorAll('button')].find(b => b.textContent === 'Retry').click())"
    )
    visit.page.wait_for_selector("text=2/2")
    visit.page.wait_for_selector(".vote")
    (kept,) = talks.kept(Store(tmp_path / "store"))
    assert [turn.draw for turn in kept.turns.values()] == [0, 1]


def test_the_way_back_leads_to_the_talk_that_was_left(go: Go) -> None:
    visit = go()
    visit.say("First talk")
    visit.page.click("#new")
    visit.page.wait_for_selector(".welcome")
    visit.page.go_back()
    visit.page.wait_for_selector(".said:has-text('First talk')")
    visit.page.click("#new")
    visit.page.wait_for_selector(".welcome")
    visit.say("Second talk")
    visit.page.go_back()
    visit.page.wait_for_selector(".said:has-text('First talk')")
    visit.page.go_forward()
    visit.page.wait_for_selector(".said:has-text('Second talk')")
    visit.page.reload()
    visit.page.wait_for_selector(".said:has-text('Second talk')")


# --- blind ------------------------------------------------------------------------------------------------------------


def test_a_blind_vote_and_what_it_was_for(go: Go) -> None:
    visit = go(Scripted(3))
    visit.page.check("#blind")
    visit.page.wait_for_selector("text=its name is hidden")
    visit.say("Hello")
    assert visit.names() == ["◆ A", "■ B", "▲ C"]
    assert not [word for word in ("wren", "plainmodel", "oak", "Base-") if word in visit.page.content()]
    visit.page.locator(".vote").get_by_role("button", name="B", exact=True).click()
    visit.page.wait_for_selector("text=kept, blind")
    assert visit.page.locator(".vote [aria-pressed=true]").inner_text() == "■ B"
    visit.page.click("#open-share")
    assert visit.page.locator("#share").get_by_role("button", name="Page (HTML)").count() == 0
    visit.page.keyboard.press("Escape")
    visit.page.get_by_role("button", name="Show the names").click()
    visit.page.wait_for_selector("text=was A")
    names = visit.names()
    assert {name[2:].partition("\n")[0] for name in names} == {"wren@1.1.0", "model:plainmodel", "prompt:oak@2.0.0"}
    winner = names[1][2:]
    assert f"{winner} 1," in visit.page.text_content("#head")
    visit.page.click("nav >> text=Votes")
    visit.page.wait_for_selector("#tallies table")
    rows = visit.page.locator("#tallies table").first.locator("tbody tr").all_inner_texts()
    assert len(rows) == 2 and all(winner in row for row in rows), "nothing was said of the two that lost"


# --- sharing ----------------------------------------------------------------------------------------------------------


def test_what_is_shared_can_be_opened_and_gone_on_with(go: Go, tmp_path: Path) -> None:
    from PIL import Image

    party = Scripted()
    visit = go(party)
    visit.say("Hello")
    visit.say("And then?")
    visit.page.get_by_role("button", name="model:plainmodel", exact=True).last.click()
    visit.page.wait_for_selector("text=kept")
    visit.page.click("#open-share")
    (kept,) = talks.kept(Store(tmp_path / "store"))
    name, page = visit.download("Page (HTML)")
    assert name == f"talk-{kept.header.id}.html"
    lines_name, lines = visit.download("Data (JSON Lines)")
    assert (lines_name, lines.decode()) == (f"talk-{kept.header.id}.jsonl", kept.text())
    visit.page.evaluate("""() => {
        const pen = CanvasRenderingContext2D.prototype, write = pen.fillText;
        window.written = [];
        pen.fillText = function (text, ...more) { written.push(text); return write.call(this, text, ...more); };
    }""")
    picture_name, picture = visit.download("Picture (PNG)")
    written = visit.page.evaluate("written")
    assert "wren@1.1.0/1eac5e9e78d7: a trained character, on Base-One" in written
    assert written.count("Temperature 0.8, at most 64 tokens") == 1, "once, as long as they stay the same"
    assert picture_name == f"talk-{kept.header.id}.png"
    image = Image.open(io.BytesIO(picture)).convert("L")
    assert image.width == 2 * (2 * 56 + 2 * 540 + 40)
    assert image.height > 800
    half = image.width // 2
    for part in ((0, 0, half, 200), (0, 300, half, image.height), (half, 300, image.width, image.height)):
        dark = sum(image.crop(part).histogram()[:100])
        assert dark > 500, f"nothing is written in {part}"
    assert visit.page.locator("#several").is_hidden()

    file = tmp_path / name
    file.write_bytes(page)
    shared = visit.context.new_page()
    shared.goto(file.as_uri())
    assert shared.locator(".said").all_inner_texts() == ["Hello", "And then?"]
    assert shared.locator(".reply.best h3").inner_text() == "■ model:plainmodel"
    assert accessibility_problems(shared) == []
    shared.set_viewport_size({"width": 360, "height": 700})
    assert not shared.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert talks.read(file).text() == kept.text()

    other = go(Scripted(), tmp_path / "other")
    other.page.click("text=Talks")
    other.page.set_input_files("#file", file)
    other.page.wait_for_selector("text=All of its speakers are here")
    assert other.replies() == visit.replies()
    assert other.page.locator("#composer").is_hidden()
    other.page.get_by_role("button", name="Go on with it").click()
    other.page.wait_for_selector("#composer", state="visible")
    other.say("From here on")
    (there,) = talks.kept(Store(tmp_path / "other"))
    assert there.header.id == kept.header.id and len(there.turns) == 3

    stranger = go(Scripted(1), tmp_path / "stranger")
    stranger.page.click("text=Talks")
    stranger.page.set_input_files("#file", file)
    stranger.page.wait_for_selector("text=not all of its speakers are here")
    assert "charforge chat wren@1.1.0/1eac5e9e78d7 model:plainmodel" in stranger.page.inner_text("#head pre")
    stranger.page.set_input_files("#file", {"name": "x.html", "mimeType": "text/html", "buffer": b"<p>no talk"})
    stranger.page.wait_for_selector("#problem:has-text('this is no talk')")
    # The browser itself notes that the server refused it.
    stranger.troubles = [trouble for trouble in stranger.troubles if "422" not in trouble]


def test_a_talk_of_strangers_is_shown(go: Go, tmp_path: Path) -> None:
    from charforge.chat.room import Nobody

    party = Scripted()
    talk = party.begin()
    turn = talks.Turn(id="0123abcd", text="Hello", sampling=party.sampling, made=talks.now())
    talk.add({"turn": turn.model_dump(mode="json")})
    for reply in party.ask(talk, turn, seconds=1):
        if isinstance(reply, talks.Reply):
            talk.add({"reply": reply.model_dump(mode="json")})
    visit = go(Nobody(), talk=talk)
    assert [text[-4:] for text in visit.replies()] == ["by 1", "by 2"]
    assert "not all of its speakers are here" in visit.page.inner_text("#head")
    assert visit.page.locator("#composer").is_hidden()
    assert visit.page.get_by_role("button", name="Retry").count() == 0
    assert not (tmp_path / "store" / "talks").exists()


def test_a_talk_that_is_too_long_for_a_picture_becomes_several(go: Go) -> None:
    import numpy as np
    from PIL import Image

    party = Scripted()
    party.says = lambda turn, speaker: "\n".join(["line"] * 800)
    visit = go(party)
    visit.say("Much")
    visit.page.click("#open-share")
    found: list[Any] = []
    visit.page.on("download", lambda download: found.append(download))
    visit.page.get_by_role("button", name="Picture (PNG)").click()
    visit.page.wait_for_selector("#several:has-text('these are 2')")
    while len(found) < 2:
        visit.page.wait_for_timeout(50)
    assert [each.suggested_filename[-6:] for each in found] == ["-1.png", "-2.png"]
    rows = 0
    for each in found:
        image = Image.open(each.path()).convert("L")
        assert image.height <= 16000
        # The second column, without the number of the picture.
        dark = np.asarray(image)[:, image.width // 2 + 20 :].min(axis=1) < 150
        rows += int(np.sum(dark[1:] & ~dark[:-1]))
    assert rows >= 800, f"of 800 lines {rows} are there"


# --- safety -----------------------------------------------------------------------------------------------------------


def test_what_a_model_says_is_shown_and_never_run(go: Go, tmp_path: Path) -> None:
    party = Scripted()
    party.says = lambda turn, speaker: NASTY + " <b>bold</b>"
    visit = go(party)
    visit.say("Hello <script>document.title='hacked'</script><img src=x onerror=alert(1)>")
    shown = visit.replies()
    assert shown == [visible(NASTY) + " <b>bold</b>"] * 2
    assert visit.page.locator("main img, main script, main b").count() == 0
    assert "hacked" not in visit.page.title().replace("document.title='hacked'", "")
    visit.page.click("text=Talks")
    visit.page.wait_for_selector(".talks a")
    assert visit.page.locator("main img").count() == 0
    visit.page.go_back()
    visit.page.click("#open-share")
    name, page = visit.download("Page (HTML)")
    (tmp_path / name).write_bytes(page)
    shared = visit.context.new_page()
    shared.on("dialog", lambda dialog: visit.troubles.append("dialog"))
    shared.on("console", lambda message: visit.troubles.append(message.text))
    shared.goto((tmp_path / name).as_uri())
    assert shared.locator(".reply .text").all_text_contents() == shown
    assert shared.locator("img, main script, main b").count() == 0
    assert shared.evaluate("document.scripts.length") == 1


def test_hidden_characters_are_shown_as_everywhere_else(go: Go) -> None:
    ranges = [(0, 0x300), (0x600, 0x620), (0x1800, 0x1810), (0x2000, 0x2070), (0xFE00, 0xFE10), (0xFEFF, 0xFF00)]
    ranges += [(0xFFF0, 0x10000), (0xE0000, 0xE0100), (0x1F468, 0x1F46A)]
    text = ".".join(chr(code) for low, high in ranges for code in range(low, high) if chr(code) not in "\n ")
    text = f"x{text} \U0001f469\u200d\U0001f680 a\u200db \u2764\ufe0f\u200d\U0001f525."
    party = Scripted()
    party.says = lambda turn, speaker: text
    visit = go(party)
    visit.say("Hello")
    assert visit.replies()[0] == visible(text)
    assert "⟦" in visible(text) and "\u200d" in visible(text)


def test_the_token_does_not_stay_in_the_address(go: Go) -> None:
    visit = go(token="right-token", path="?token=right-token")
    assert "token" not in visit.page.url
    visit.say("Hello")
    assert "right-token" not in visit.page.evaluate("document.cookie")
    visit.page.reload()
    visit.page.wait_for_selector(".vote")


# --- everybody --------------------------------------------------------------------------------------------------------


def test_with_keys_alone(go: Go) -> None:
    visit = go()
    page = visit.page
    keys = page.keyboard
    assert page.evaluate("document.activeElement.id") == "message"
    keys.type("Hello")
    keys.press("Shift+Enter")
    keys.type("there")
    keys.press("Enter")
    page.wait_for_selector(".vote")
    assert page.locator(".said").inner_text() == "Hello\nthere"
    for key, pressed in (
        ("Alt+2", "■ model:plainmodel"),
        ("Alt+0", "equally good"),
        ("Alt+9", "both bad"),
        ("Alt+1", "◆ wren@1.1.0"),
    ):
        keys.press(key)
        page.wait_for_function("what => document.querySelector('[aria-pressed=true]')?.innerText === what", arg=pressed)
    keys.press("Alt+r")
    page.wait_for_selector("text=2/2")
    page.wait_for_selector(".vote")
    keys.press("Alt+,")
    page.wait_for_selector("text=1/2")
    # Without Alt only if asked for, and never while writing.
    keys.press("Escape")
    keys.press("2")
    assert page.locator("[aria-pressed=true]").inner_text() == "◆ wren@1.1.0"
    keys.press("Alt+/")
    assert page.evaluate("document.activeElement.id") == "message"
    seen = []
    page.focus(".skip")
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") > 0, "it comes into view"
    for _ in range(60):
        keys.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.innerText.trim()"))
        if seen[-1] == "send":
            break
    assert {"Talks", "open-share", "Edit", "Retry", "equally good", "both bad", "message", "send"} <= set(seen)
    page.focus("#open-keys")
    keys.press("Enter")
    page.check("#single")
    keys.press("Escape")
    page.evaluate("document.activeElement.blur()")
    keys.press("2")
    page.wait_for_function("() => document.querySelector('[aria-pressed=true]')?.innerText === '■ model:plainmodel'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(go: Go, scheme: str) -> None:
    visit = go(Scripted(3), color_scheme=scheme)
    assert accessibility_problems(visit.page) == []
    visit.page.check("#blind")
    visit.page.wait_for_selector("text=its name is hidden")
    visit.say("Hello")
    visit.page.keyboard.press("Alt+1")
    visit.page.wait_for_selector("text=kept, blind")
    assert accessibility_problems(visit.page) == []
    visit.page.get_by_role("button", name="Show the names").click()
    visit.page.wait_for_selector("text=was A")
    visit.page.click("#settings summary")
    visit.page.get_by_role("button", name="Retry").first.click()
    visit.page.wait_for_selector("text=2/2")
    visit.page.wait_for_selector(".vote")
    visit.page.get_by_role("button", name="Edit", exact=True).first.click()
    assert accessibility_problems(visit.page) == []
    for name in ("#open-share", "#open-keys"):
        visit.page.click(name)
        assert accessibility_problems(visit.page) == []
        visit.page.keyboard.press("Escape")
    for name, there in (("Talks", ".talks a"), ("Votes", "#tallies table")):
        visit.page.click(f"nav >> text={name}")
        visit.page.wait_for_selector(there)
        assert accessibility_problems(visit.page) == []


def test_light_and_dark_differ(go: Go) -> None:
    visit = go()
    colours = []
    for scheme in ("light", "dark"):
        visit.page.emulate_media(color_scheme=scheme)
        colours.append(visit.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(253, 253, 251)", "rgb(23, 25, 28)"]


def test_a_phone_scrolls_only_down(go: Go) -> None:
    party = Scripted(3)
    party.says = lambda turn, speaker: "averylongwordwithoutanybreak" * 12 + " and more"
    visit = go(party, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    visit.page.fill("#message", "anotherlongwordofaperson" * 8)
    visit.page.click("#send")
    visit.page.wait_for_selector(".vote")
    boxes = [visit.page.locator(".reply").nth(place).bounding_box() for place in (0, 1)]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"], "one below the other"
    assert not visit.scrolls_sideways()
    visit.page.locator(".vote button").first.click()
    visit.page.wait_for_selector("text=kept")
    visit.page.click("#settings summary")
    assert not visit.scrolls_sideways()
    visit.page.click("#open-share")
    assert not visit.scrolls_sideways()
    visit.page.keyboard.press("Escape")
    for name in ("Talks", "Votes"):
        visit.page.click(f"nav >> text={name}")
        visit.page.wait_for_timeout(200)
        assert not visit.scrolls_sideways()
