"""One trait changed, and nothing changed: does `charforge compare` tell the two apart?

Trains the shipped character with three seeds, and a version of it that differs in one trait (made-on-purpose.md beside this
file), and compares. On two CPU cores each of the four trainings takes as long as `make demo`; what is there is reused.

    .venv/bin/python docs/experiments/versions/run.py

Prints what was found, and writes it to build/versions/results.json. Three questions:

- the pair that differs in one trait: which traits moved, in all prompts and in random halves of them?
- the null pair, two seeds of one constitution: in how many random halves of the prompts does anything move? This with chance
  in training allowed for, as `charforge compare` does, and as if there were none. What chance does is taken from the third
  seed: a pair that were its own measure of chance could not be called different.
- the null pair with the two replies to each prompt exchanged by coin: then only chance between prompts is left, and false
  alarms in more than 5% of the draws would say that the test over prompts is wrong.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charforge import compare
from charforge.constitution import Constitution, load
from charforge.statistics import proportion
from charforge.store import Row, read_rows

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[2]
BUILD = TOP / "build" / "versions"
TITLE = "### Made on purpose"
SPLITS = 400

Change = Callable[[Row], Row | None]
Draw = Callable[[random.Random, list[str]], Change]


def compose() -> Path:
    """The shipped constitution with the one trait in its new form."""
    text = (TOP / "constitutions" / "wren.md").read_text(encoding="utf-8")
    start = text.index(TITLE)
    end = text.index("\n### ", start + 1) + 1
    new = (HERE / "made-on-purpose.md").read_text(encoding="utf-8").rstrip() + "\n\n"
    text = (text[:start] + new + text[end:]).replace("version: 1.1.0", "version: 1.2.0", 1)
    BUILD.mkdir(parents=True, exist_ok=True)
    path = BUILD / "wren.md"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return path


def charforge(*arguments: str) -> dict[str, Any]:
    """The result of a command that prints JSON; what it says on the way is shown."""
    command = [sys.executable, "-m", "charforge", *arguments, "--json"]
    print("charforge " + " ".join(arguments), file=sys.stderr, flush=True)
    done = subprocess.run(command, cwd=TOP, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def train(*settings: str) -> str:
    """The character (name@version/build) that the demo recipe makes with these settings."""
    overrides = [part for setting in settings for part in ("--set", setting)]
    result = charforge("train", "recipes/demo.yaml", *overrides)
    return f"{result['character']['reference']}/{result['character']['build']}"


@dataclass(frozen=True)
class Pair:
    """The rows of a comparison of two: what is measured in them, and which runs differ by chance alone."""

    rows: list[Row]
    labels: list[str]
    asked: list[compare.Measure]
    groups: list[list[str]]
    touched: set[str]

    @classmethod
    def read(cls, data: dict[str, Any], constitutions: list[Constitution]) -> Pair:
        folder = Path(data["directory"])
        rows = read_rows(folder / "rows.jsonl")
        if (folder / "runs.jsonl").is_file():
            rows += read_rows(folder / "runs.jsonl")
        asked = compare.measures(compare.definitions(constitutions), [judge["kind"] for judge in data["judges"]])
        labels = [each["label"] for each in data["contestants"]]
        touched = {c["trait"] for c in data["changes"] if c["touched"]}
        return cls(rows, labels, asked, data["runs"]["groups"] if data["runs"] else [], touched)

    def moved(self, change: Callable[[Row], Row | None] = lambda row: row, *, allowing: bool = True) -> set[str]:
        """The traits of which a measure differs beyond chance in the changed rows; "" for a measure of all replies."""
        by: dict[str, list[Row]] = {}
        for row in self.rows:
            if (found := change(row)) is not None:
                by.setdefault(found["contestant"], []).append(found)
        groups = [[by[label] for label in group] for group in self.groups]
        noise = compare.noise_of(groups, self.asked) if allowing else None
        compared = {label: by[label] for label in self.labels}
        changes = compare.differences(compared, self.asked, noise, self.labels, {self.labels[1]: self.touched})
        return {c["trait"] or "" for c in changes if c["adjusted"] is not None and c["adjusted"] < compare.CLEAR}

    def repeated(self, draw: Draw, *, allowing: bool = True) -> list[set[str]]:
        """What moves in each of many draws of the rows."""
        bases = sorted({row["base"] for row in self.rows})
        return [self.moved(draw(random.Random(number), bases), allowing=allowing) for number in range(SPLITS)]


def halves(chance: random.Random, bases: list[str]) -> Change:
    kept = set(chance.sample(bases, len(bases) // 2))
    return lambda row: row if row["base"] in kept else None


def exchanged(labels: list[str]) -> Draw:
    other = dict(zip(labels, reversed(labels), strict=True))

    def draw(chance: random.Random, bases: list[str]) -> Change:
        turned = {base for base in bases if chance.random() < 0.5}
        return lambda row: (
            {**row, "contestant": other.get(row["contestant"], row["contestant"])} if row["base"] in turned else row
        )

    return draw


def share(sets: Iterable[bool]) -> dict[str, Any]:
    values = [float(value) for value in sets]
    found = proportion(values, range(len(values)))
    assert found is not None
    return found.as_dict()


def study(data: dict[str, Any], constitutions: list[Constitution], expected: str | None) -> dict[str, Any]:
    pair = Pair.read(data, constitutions)
    halved, naive = pair.repeated(halves), pair.repeated(halves, allowing=False)
    result: dict[str, Any] = {
        "contestants": [each["id"] for each in data["contestants"]],
        "prompts": data["prompts"]["asked"],
        "noise between runs": data["runs"],
        "moved": sorted(pair.moved()),
        "moved, were there no chance in training": sorted(pair.moved(allowing=False)),
        "halves": {"draws": SPLITS, "moved": dict(sorted(Counter(t for found in halved for t in found).items()))},
        "page": str(Path(data["directory"]) / "comparison.html"),
    }
    if expected is None:
        result["halves"]["false alarms"] = share(bool(found) for found in halved)
        result["halves"]["false alarms, were there no chance in training"] = share(bool(found) for found in naive)
        swapped = pair.repeated(exchanged(pair.labels), allowing=False)
        result["exchanged"] = {"draws": SPLITS, "false alarms": share(bool(found) for found in swapped)}
    else:
        result["halves"]["found"] = share(expected in found for found in halved)
        result["halves"]["anything else"] = share(bool(found - {expected}) for found in halved)
    return result


def main() -> None:
    changed = compose()
    first, again = train(), train("seed=1")
    train("seed=2")
    second = train(f"constitution={changed}")
    old, new = load(TOP / "constitutions" / "wren.md"), load(changed)
    results = {
        "one trait changed": study(charforge("compare", first, second), [new, old], "made-on-purpose"),
        "two seeds": study(charforge("compare", first, again), [old], None),
    }
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (BUILD / "results.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
