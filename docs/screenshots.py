"""Takes the pictures of the docs: the real pages, with real replies, in a headless Chromium.

python docs/screenshots.py                    all of them: trains nothing, so wren@1.1.0 must be in the store
python docs/screenshots.py --only chat        those whose names begin like this
python docs/screenshots.py --store FOLDER     from this store

A picture is a function below; its name is that of the file in docs/images. To add one, write another.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from charforge.report import comparison, evaluation, training
from charforge.store import Store, read_rows

_IMAGES = Path(__file__).parent / "images"
_SPEAKERS = ("wren@1.1.0", "model:builtin:smollm2-135m-instruct")
_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
# Replies of a small model on two cores that others use as well take a while.
_PATIENCE = 600_000

PICTURES: dict[str, Callable[[Studio], None]] = {}


@dataclass
class Studio:
    """A browser, and the server of a talk, started when a picture first needs it."""

    browser: Any
    store: Path
    name: str = ""
    kept: dict[str, str] = field(default_factory=dict)
    """The addresses of talks that pictures share."""
    _server: subprocess.Popen[str] | None = None
    _url: str = ""

    def server(self) -> str:
        if self._server is None:
            command = [str(Path(sys.executable).parent / "charforge"), "chat", *_SPEAKERS, "--web", "--port", "0"]
            command += ["--no-browser", "--store", str(self.store), "--max-tokens", "96", "--seconds", "600"]
            self._server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert self._server.stdout is not None
            self._url = self._server.stdout.readline().strip()
            if not self._url:
                raise SystemExit("charforge chat did not start: see above")
        return self._url

    def window(self, url: str, *, width: int = 1280, height: int = 860, dark: bool = False) -> Any:
        scheme = "dark" if dark else "light"
        context = self.browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            device_scale_factor=1.5,
            reduced_motion="reduce",
            accept_downloads=True,
        )
        context.set_default_timeout(_PATIENCE)
        page = context.new_page()
        page.goto(url)
        return page

    def take(self, page: Any) -> None:
        """Write the picture that is being taken."""
        page.evaluate("() => document.activeElement?.blur()")
        path = _IMAGES / f"{self.name}.png"
        page.screenshot(path=path)
        print(f"wrote {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")

    def close(self) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server.wait(timeout=30)


def picture(take: Callable[[Studio], None]) -> Callable[[Studio], None]:
    PICTURES[take.__name__.replace("_", "-")] = take
    return take


def _say(page: Any, text: str) -> None:
    page.fill("#message", text)
    page.press("#message", "Enter")
    page.wait_for_function(
        "text => [...document.querySelectorAll('.said')].at(-1)?.textContent === text"
        " && !document.querySelector('[aria-busy]')",
        arg=text,
    )


def _talk(studio: Studio) -> str:
    """The address of a talk with two turns and a vote."""
    if "open" not in studio.kept:
        page = studio.window(studio.server())
        page.wait_for_selector("html[data-ready]")
        _say(page, "My tea went cold while I was reading.")
        _say(page, "What should I do with a free hour?")
        page.keyboard.press("Alt+1")
        page.wait_for_selector("text=kept")
        studio.kept["open"] = page.url
        page.context.close()
    return studio.kept["open"]


def _at_the_top(studio: Studio, *, dark: bool) -> None:
    page = studio.window(_talk(studio), dark=dark)
    page.wait_for_selector(".vote")
    page.evaluate("() => scrollTo(0, 0)")
    studio.take(page)


@picture
def chat(studio: Studio) -> None:
    _at_the_top(studio, dark=False)


@picture
def chat_dark(studio: Studio) -> None:
    _at_the_top(studio, dark=True)


@picture
def chat_blind(studio: Studio) -> None:
    page = studio.window(studio.server(), height=620)
    page.wait_for_selector("html[data-ready]")
    page.check("#blind")
    page.wait_for_selector("text=its name is hidden")
    _say(page, "Name a small bird, and say why you like it.")
    page.keyboard.press("Alt+2")
    page.wait_for_selector("text=kept, blind")
    page.evaluate("() => scrollTo(0, 0)")
    studio.take(page)


@picture
def chat_shared(studio: Studio) -> None:
    page = studio.window(_talk(studio))
    page.wait_for_selector(".vote")
    page.click("#open-share")
    with page.expect_download() as found:
        page.click("text=Page (HTML)")
    path = Path(found.value.path()).with_suffix(".html")
    shutil.copy(found.value.path(), path)
    studio.take(studio.window(path.as_uri(), height=1000))


def _page(studio: Studio, source: str, **options: Any) -> Any:
    """A window on a page that was just written, by the code as it is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_text(source, encoding="utf-8")
        return studio.window(path.as_uri(), **options)


def _newest(studio: Studio, pattern: str, command: str, says: str = "") -> dict[str, Any]:
    """The newest JSON of this kind in the store, of those that say something."""
    found = sorted(studio.store.glob(pattern), key=lambda path: path.stat().st_mtime)
    found = [path for path in found if says in path.read_text(encoding="utf-8")]
    if not found:
        raise SystemExit(f"{studio.store} holds nothing to show: first run {command} --store {studio.store}")
    data: dict[str, Any] = json.loads(found[-1].read_text(encoding="utf-8"))
    return data


@picture
def report(studio: Studio) -> None:
    data = _newest(studio, f"characters/{_SPEAKERS[0]}/*/report.json", "charforge train recipes/demo.yaml")
    studio.take(_page(studio, training.page(data), width=1200, height=1750))


def _evaluation(studio: Studio) -> str:
    data = _newest(studio, "artifacts/evaluated/*/evaluation.json", f"charforge eval {_SPEAKERS[0]} --preset quick")
    for role, key in data["provenance"]["keys"].items():
        found = Store(studio.store).artifact(f"measure-{role}", key).directory / "rows.jsonl"
        data["suites"][role]["rows"] = read_rows(found)
    return evaluation.page(data)


@picture
def evaluation_page(studio: Studio) -> None:
    studio.take(_page(studio, _evaluation(studio), width=1200, height=1500))


@picture
def evaluation_rows_dark(studio: Studio) -> None:
    page = _page(studio, _evaluation(studio), width=1200, height=900, dark=True)
    page.fill("#filter-words", '"leave that"')
    page.wait_for_selector("#filter-found.filtered")
    page.evaluate("() => document.getElementById('rows').scrollIntoView()")
    studio.take(page)


@picture
def comparison_page(studio: Studio) -> None:
    changed = "wren@1.2.0"
    data = _newest(studio, "artifacts/compared/*/comparison.json", "make versions, which makes one", changed)
    studio.take(_page(studio, comparison.page(data), width=1200, height=1500))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only pictures whose names begin like this")
    parser.add_argument("--store", type=Path, default=Path(os.environ.get("CHARFORGE_STORE") or ".charforge"))
    given = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        print("no Chromium is installed", file=sys.stderr)
        return 2
    chosen = {name: take for name, take in PICTURES.items() if name.startswith(given.only)}
    if not chosen:
        print(f"no such picture; known: {', '.join(PICTURES)}", file=sys.stderr)
        return 2
    _IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=list(_ARGUMENTS))
        studio = Studio(browser, given.store)
        try:
            for studio.name, take in chosen.items():
                take(studio)
        finally:
            studio.close()
            browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
