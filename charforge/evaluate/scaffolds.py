"""Scaffolds: does the character show where nobody chats with it?

The same small matters are put in plain chat and inside other work: an e-mail agent, a tool's result, a code review, a form,
a summary, a translation, a long talk, a story for somebody else, another language. Traits measured in chat alone say
little about these: adapters that are recognised in chat with a macro-F1 of .86 to .94 fell to .29 to .55 when the same
models wrote e-mails inside an agentic task (a public re-scoring of the adapters of arXiv 2511.01689).
"""

from __future__ import annotations

import json
import re
from typing import Any

from charforge.evaluate import robustness
from charforge.evaluate.suites import Probe, ScaffoldSuite
from charforge.store import Row

CHAT = "chat"


def probes(suite: ScaffoldSuite, system: str | None) -> list[Probe]:
    """Everything that is asked of one arm. `system` is what the prompted arm is told, before what the scaffold says."""
    found = []
    for matter, tasks in suite.matters.items():
        for name, scaffold in suite.scaffolds.items():
            told = "\n\n".join(filter(None, [system, scaffold.system]))
            messages = [{"role": "system", "content": told}] if told else []
            for said, answered in scaffold.before:
                messages += [{"role": "user", "content": said}, {"role": "assistant", "content": answered}]
            messages.append({"role": "user", "content": tasks[name]})
            found.append(Probe(matter, name, tuple(messages), reads=scaffold.reads, context=scaffold.context))
    return found


def own_words(text: str, field: str | None) -> str | None:
    """The part of a reply that is the character's own: all of it, or a field of the JSON object that it holds.

    None where the object or the field is not there: such a reply is unread, and is counted as that.
    """
    if field is None:
        return text
    for found in re.finditer(r"\{", text):
        try:
            data, _ = json.JSONDecoder(strict=False).raw_decode(text[found.start() :])
        except ValueError:
            continue
        if isinstance(data, dict) and isinstance(data.get(field), str):
            return str(data[field])
    return None


def measure(rows: list[Row]) -> dict[str, Any]:
    """For each arm and scaffold how often the voice held, and the paired change from plain chat."""
    result = robustness.measure(rows)
    arms = list(result)
    for arm in arms:
        mine = [row for row in rows if row["arm"] == arm]
        for scaffold, found in result[arm].items():
            found["change"] = None if scaffold == CHAT else robustness.change(mine, scaffold, CHAT)
    return result
