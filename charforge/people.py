"""People: which contestant they preferred in talks, and whether the judges would have said the same.

Only blind votes on chat turns are evidence; votes of those who knew whose replies they read are counted apart. Votes of one
talk are not independent: intervals and p take talks for the independent units (Miller 2024, arXiv 2411.00640).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial

from charforge.constitution import Message
from charforge.evaluate.findings import plain
from charforge.statistics import (
    Estimate,
    Outcome,
    benjamini_hochberg,
    bootstrap,
    bradley_terry,
    cohen_kappa,
    gwet_ac1,
    paired_change,
    paired_test,
    proportion,
)
from charforge.store import Row
from charforge.talks import FEWEST_TALKS, Judgement, Talk, few, judgements, tally

FEWEST_DECIDED = 30
"""With fewer decided votes nothing is said of how good a judge is."""
LONGEST = 8000
"""What was said and the reply, in bytes: longer ones are not judged, since a model reads only so much at once."""


def votes(talks: Iterable[Talk], speakers: Mapping[str, str]) -> list[Row]:
    """What was said of two contestants at a time: a row for each pair of replies that a vote says something of.

    `speakers` has the label of each contestant by its digest, in order. Of a row, `value` is what `contestant`, the later
    one, won over `against`: 1, 0, or 0.5 where neither was better; `said` is what each had read, without system messages.
    Talks whose names are hidden are not counted yet: who voted would learn who is who.
    """
    order = list(speakers)
    found = []
    for vote in judgements(talk for talk in talks if not talk.hidden):
        if not {vote.first, vote.second} <= set(order):
            continue
        if order.index(vote.first) < order.index(vote.second):
            vote = replace(
                vote, first=vote.second, second=vote.first, value=1 - vote.value, said=vote.said_second,
                said_second=vote.said, replies=(vote.replies[1], vote.replies[0]),
            )  # fmt: skip
        row = asdict(vote)
        row |= {"contestant": speakers[row.pop("first")], "against": speakers[row.pop("second")]}
        row |= {"said": list(row["said"]), "said_second": list(row["said_second"]), "replies": list(row["replies"])}
        found.append(row)
    return found


def cases(rows: Iterable[Row]) -> list[tuple[Sequence[Message], str, str]]:
    """What a judge is asked of each vote: both replies, each after what its speaker had read, against the earlier one's."""
    found: list[tuple[Sequence[Message], str, str]] = []
    for row in rows:
        reply, other = row["replies"]
        found += [(row["said"], reply, other), (row["said_second"], other, other)]
    return found


def can_be_judged(row: Row) -> bool:
    """Whether a vote is blind, and short enough for a judge to read."""
    sides = zip((row["said"], row["said_second"]), row["replies"], strict=True)
    sizes = [len("".join([*(m["content"] for m in said), reply]).encode()) for said, reply in sides]
    return row["blind"] and max(sizes) <= LONGEST


def read(rows: Sequence[Row], labels: Sequence[str], judges: Sequence[str]) -> Row | None:
    """What people preferred, and how far each judge agrees with them; None where nobody voted.

    Rows that were judged have `scores`: of each judge those of both replies.
    """
    if not rows:
        return None
    blind = [row for row in rows if row["blind"]]
    data = {
        "pairs": preferences(blind, labels),
        "open": [
            {name: pair[name] for name in ("contestant", "against", "wins", "ties", "losses", "votes", "talks")}
            for pair in preferences([row for row in rows if not row["blind"]], labels)
        ],
        "strengths": strengths(blind, labels),
        "judges": [agreement(kind, blind, partial(_by_scores, kind)) for kind in judges],
        "length": {**agreement("the longer reply", blind, _by_length), "over_length": None},
        "fewest": {"talks": FEWEST_TALKS, "decided": FEWEST_DECIDED},
    }
    return {name: plain(value) for name, value in data.items()}


# --- what was preferred -----------------------------------------------------------------------------------------------


def preferences(rows: Sequence[Row], labels: Sequence[str]) -> list[Row]:
    """For each two that were voted on: wins, ties and losses of the later one, and its share with a tie as half a win.

    p is that of no preference, by flipping the signs of whole talks; `adjusted` for the number of pairs (Benjamini &
    Hochberg 1995). With fewer than 8 talks there is neither, nor an interval, and `why` says so.
    """
    place = {label: number for number, label in enumerate(labels)}
    found: list[Row] = []
    for each in tally(_judgement(row) for row in rows):
        mine = [row for row in rows if (row["contestant"], row["against"]) == (each.first, each.second)]
        p = paired_test([row["value"] - 0.5 for row in mine], [row["talk"] for row in mine])
        found.append(
            {
                "contestant": each.first,
                "against": each.second,
                "wins": each.wins,
                "ties": each.ties,
                "losses": each.losses,
                "votes": len(mine),
                "talks": each.talks,
                "value": each.share,
                "low": each.low,
                "high": each.high,
                "p": None if each.why else p,
                "why": each.why,
            }
        )
    found.sort(key=lambda row: (place[row["against"]], place[row["contestant"]]))
    adjusted = benjamini_hochberg({str(n): row["p"] for n, row in enumerate(found) if row["p"] is not None})
    return [{**row, "adjusted": adjusted.get(str(n))} for n, row in enumerate(found)]


def _judgement(row: Row) -> Judgement:
    replies = (row["replies"][0], row["replies"][1])
    return Judgement(row["talk"], row["contestant"], row["against"], row["value"], row["blind"], (), (), replies)


def strengths(rows: Sequence[Row], labels: Sequence[str]) -> Row | None:
    """Bradley-Terry strengths of all contestants by people's votes, clustered by talk; None for two, or without votes.

    Where votes do not link every contestant with every other, directly or through others, there are no strengths: `why`.
    """
    if len(labels) < 3 or not rows:
        return None
    linked = {labels[0]}
    for _ in labels:
        linked |= {
            row[side]
            for row in rows
            for side in ("contestant", "against")
            if linked & {row["contestant"], row["against"]}
        }
    talks = len({row["talk"] for row in rows})
    about: Row = {"votes": len(rows), "talks": talks, "items": [], "why": few(talks)}
    if apart := [label for label in labels if label not in linked]:
        return {**about, "why": f"no votes link {labels[0]} with {', '.join(apart)}"}
    outcomes = [Outcome(row["contestant"], row["against"], row["value"], row["talk"]) for row in rows]
    for label, found in bradley_terry(outcomes, labels).items():
        ends = (found.low, found.high) if found and not about["why"] else (None, None)
        about["items"].append(
            {"contestant": label, "value": found.value if found else None, "low": ends[0], "high": ends[1]}
        )
    return about


# --- judges against people --------------------------------------------------------------------------------------------


def agreement(name: str, rows: Sequence[Row], prefers: Callable[[Row], float | None]) -> Row:
    """How often a rule prefers the reply that people preferred.

    `prefers` says 1, 0, 0.5 or None for each vote, as its `value` does. `value` is the share of decided votes on which both
    say the same, with a tie of the rule as half. `kappa` (Cohen 1960) and `ac1` (Gwet 2008) are over all votes in three
    classes; `over_length` is the mean difference of `value` to that of preferring the longer reply, on the same votes.
    """
    known = [(row, said) for row in rows if (said := prefers(row)) is not None]
    decided = [(row, said) for row, said in known if row["value"] != 0.5]
    talks = [row["talk"] for row, _ in decided]
    right = [1 - abs(said - row["value"]) for row, said in decided]
    by_length = [1 - abs(_by_length(row) - row["value"]) for row, _ in decided]
    people, rule = [row["value"] for row, _ in known], [said for _, said in known]
    by_talk: dict[str, list[tuple[float, float]]] = {}
    for row, said in known:
        by_talk.setdefault(row["talk"], []).append((row["value"], said))
    why_few = few(len(set(talks)))
    value, gained = proportion(right, talks), paired_change(right, by_length, talks)
    ac1 = bootstrap(by_talk, lambda pairs: gwet_ac1([a for a, _ in pairs], [b for _, b in pairs]), n=1000)
    why = None
    if not known:
        why = "it was asked about none of the blind votes"
    elif len(decided) < FEWEST_DECIDED:
        why = f"{len(decided)} decided votes are too few to calibrate anything: {FEWEST_DECIDED} are the least"
    return {
        "name": name,
        "pairs": len(known),
        "decided": len(decided),
        "talks": len(set(talks)),
        "unscored": len(rows) - len(known),
        "agreement": _estimate(value, why_few),
        "over_length": _estimate(gained, why_few),
        "kappa": cohen_kappa(people, rule),
        "ac1": _estimate(ac1, None),
        "why": why or why_few,
    }


def _by_scores(kind: str, row: Row) -> float | None:
    mine, other = row.get("scores", {}).get(kind, (None, None))
    return None if mine is None or other is None else _larger(mine, other)


def _by_length(row: Row) -> float:
    return _larger(*(len(reply) for reply in row["replies"]))


def _larger(one: float, other: float) -> float:
    return 0.5 if one == other else float(one > other)


def _estimate(found: Estimate | None, few: str | None) -> Row | None:
    if found is None:
        return None
    return found.as_dict() | ({"low": None, "high": None} if few else {})
