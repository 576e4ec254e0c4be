"""A talk as one HTML file to be handed on: it asks the network for nothing, runs nothing, and holds the talk itself.

`talks.read` takes the file as it takes JSON Lines. All words in it are made visible once, here, and escaped in the template;
its policy (CSP) allows its own style and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from charforge import talks
from charforge.errors import UserError
from charforge.report import plots
from charforge.report.page import environment, label, stylesheet
from charforge.report.text import visible_within
from charforge.talks import Reply, Talk, Turn

_FOLDER = Path(__file__).parent / "pages"
_GLYPHS = "◆■▲●"
_ENDS = {"length": "cut at the longest length", "stopped": "stopped", "late": "time was up", "failed": "failed"}
_KINDS = {"character": "a trained character", "model": "a bare model", "prompt": "a model told a constitution in brief"}


def shared_page(talk: Talk, turn: str | None = None) -> str:
    """The talk as one HTML file: the branch through `turn` (else the one gone on with last) and below it all others.

    Raises:
        UserError: names are hidden: the file would show them.
    """
    if talk.hidden:
        raise UserError("the names are hidden, and what is shared shows them", hint="show the names first")
    path = talk.path(talk.leaf(turn))
    shown = {each.id for each in path}
    style = stylesheet(_FOLDER / "chat.css")
    names = {speaker.id: speaker.label for speaker in talk.speakers}
    return _template().render(
        title=visible_within(label(" ".join(path[0].text.split()), 90)) if path else "Nothing said yet",
        talk=visible_within(talk.header.model_dump(mode="json")),
        speakers=[
            visible_within({**s.model_dump(mode="json"), **mark(place)}) for place, s in enumerate(talk.speakers)
        ],
        kinds=_KINDS,
        path=[_turn(talk, each, names) for each in path],
        others=[
            {**_turn(talk, each, names), "after": visible_within(_after(talk, each))}
            for each in talk.turns.values()
            if each.id not in shown
        ],
        tallies=visible_within(_tallies(talk, names)),
        votes=len(talk.votes),
        command=visible_within(command(talk)),
        # Within JSON a character may be spelled by its number, so no tag can begin or end in here.
        data=Markup(talk.text().replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")),  # noqa: S704
        opening=Markup(talks.DATA),  # noqa: S704
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
    )


def command(talk: Talk) -> str:
    """The command that goes on with a talk from its file."""
    references = " ".join(shlex.quote(speaker.reference) for speaker in talk.speakers)
    return f"charforge chat {references} --open talk-{talk.header.id}.html"


def mark(place: int) -> dict[str, Any]:
    """The colour and the shape of the speaker at a place."""
    return {"hue": place % len(_GLYPHS), "glyph": _GLYPHS[place % len(_GLYPHS)]}


@cache
def _template() -> jinja2.Template:
    return environment(_FOLDER).get_template("shared.html.jinja")


def _turn(talk: Talk, turn: Turn, names: dict[str, str]) -> dict[str, Any]:
    beside = talk.children(turn.parent)
    vote = talk.votes.get(turn.id)
    found: dict[str, Any] = {
        **turn.model_dump(mode="json"),
        "beside": len(beside),
        "place": [each.id for each in beside].index(turn.id) + 1,
        "replies": [
            {**mark(place), **_reply(talk.replies.get((turn.id, speaker.id))), "name": speaker.label}
            for place, speaker in enumerate(talk.speakers)
        ],
        "vote": None if vote is None else _voted([names[id_] for id_ in vote.best], len(vote.shown), vote.blind),
        "best": [] if vote is None else [names[id_] for id_ in vote.best],
    }
    shown: dict[str, Any] = visible_within(found)
    return shown


def _reply(reply: Reply | None) -> dict[str, Any]:
    if reply is None:
        return {"text": "", "said": False, "notes": ["no reply"]}
    notes = [] if reply.finish == "stop" else [_ENDS[reply.finish] + (f": {reply.why}" if reply.why else "")]
    if reply.seed is None and reply.finish != "failed":
        notes.append("written by a person")
    else:
        notes += [f"{reply.tokens} token{'s' if reply.tokens != 1 else ''}", f"seed {reply.seed}"]
    return {"text": reply.text, "said": True, "notes": notes}


def _voted(best: Sequence[str], shown: int, blind: bool) -> str:
    seen = "names hidden" if blind else "names shown"
    if not best:
        return f"{'both' if shown == 2 else 'all'} bad ({seen})"
    if len(best) == shown:
        return f"equally good ({seen})"
    return f"{' and '.join(best)} {'is better' if shown == 2 else 'best'} ({seen})"


def _after(talk: Talk, turn: Turn) -> str:
    if turn.parent is None:
        return "at the beginning"
    return f"after “{label(' '.join(talk.turns[turn.parent].text.split()), 60)}”"


def _tallies(talk: Talk, names: dict[str, str]) -> list[dict[str, Any]]:
    result = []
    for title, blind in (("names hidden", True), ("names shown", False)):
        found = talks.tally(vote for vote in talks.judgements([talk], said=False) if vote.blind is blind)
        for each in found:
            counts = {"wins": each.wins, "losses": each.losses, "ties": each.ties}
            pair = {"first": names[each.first], "second": names[each.second]}
            result.append(
                {
                    "title": title,
                    **pair,
                    **counts,
                    "share": plots.interval({"value": each.share, "low": each.low, "high": each.high}),
                    "why": each.why,
                }
            )
    return result
