"""Log-probabilities and forced choices for a stage, each kept as soon as it exists.

The work is cut into batches by the texts alone; a batch that was interrupted is computed again whole, so a continued run
forms the same batches, and gets the same digits, as an unbroken one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from charforge.constitution import Message, digest
from charforge.engine.scoring import Item, Prompt, Scorer
from charforge.recipe import Endpoint
from charforge.stage import Weights, Work
from charforge.store import Journal, Row, write_rows

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """A question that is answered with one of several labels. Questions with equal `context` share its computation."""

    context: tuple[Message, ...]
    prompt: Prompt
    labels: tuple[str, ...]


class Bench:
    """What a stage weighs, under any weights. Close it at the end: that keeps the numbers for later stages."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.journal: Journal = work.artifact.journal()
        self.about: Row = {"computed": 0, "kept": 0}
        self._kept = True
        self._before: Callable[[], None] | None = None

    def anew(self) -> Bench:
        """This bench, computing whatever it is asked and keeping nothing: what was weighed before says nothing about how the
        model weighs now."""
        found = copy.copy(self)
        found._kept = False
        return found

    def guarded(self, check: Callable[[], None]) -> Bench:
        """This bench, calling `check` once before it computes something that is not there yet; if that raises, nothing was."""
        found = copy.copy(self)
        found._before = check
        return found

    def log_probabilities(self, weights: Weights, items: Sequence[Item]) -> list[Row]:
        """Rows with `mean` (nats per token; None for no tokens) and `tokens`, in the order of the items."""

        def compute(batch: Sequence[Item]) -> list[Row]:
            found = self._scorer(weights).score(batch)
            return [{"mean": round(r.mean, 6) if r.tokens else None, "tokens": r.tokens} for r in found]

        under = _identity(weights)
        keys = [digest(["logp", under, list(i.context), _plain(i.messages), i.reply]) for i in items]
        sizes = [_length(i.messages) + len(i.reply) for i in items]
        return self._sweep(keys, items, sizes, compute)

    def choices(self, weights: Weights, questions: Sequence[Question]) -> list[Row]:
        """Rows with `p`: the probability of each label as the first token of the answer.

        What a row lacks to 1 the model would have said something else with. Through an endpoint only messages can be asked.
        """

        def compute(batch: Sequence[Question]) -> list[Row]:
            results: dict[int, list[float]] = {}
            groups: dict[str, list[int]] = {}
            for index, question in enumerate(batch):
                groups.setdefault(repr((question.context, question.labels)), []).append(index)
            for indices in groups.values():
                first = batch[indices[0]]
                prompts = [batch[i].prompt for i in indices]
                for index, found in zip(indices, self._choose(weights, first, prompts), strict=True):
                    results[index] = found
            return [{"p": [round(value, 6) for value in results[i]]} for i in range(len(batch))]

        under = _identity(weights)
        keys = [digest(["choice", under, list(q.context), _plain(q.prompt), list(q.labels)]) for q in questions]
        return self._sweep(keys, questions, [_length(q.prompt) for q in questions], compute)

    def _choose(self, weights: Weights, first: Question, prompts: Sequence[Prompt]) -> list[list[float]]:
        if not isinstance(weights.source, Endpoint):
            return self._scorer(weights).choose(first.context, prompts, first.labels)
        from charforge.engine.endpoint import EndpointEngine

        runtime = self.work.recipe.runtime
        engine = EndpointEngine(
            weights.source, concurrency=runtime.endpoint_concurrency, retries=runtime.endpoint_retries
        )
        chats = [[*first.context, *prompt] for prompt in prompts if not isinstance(prompt, str)]
        found = dict(engine.choose(chats, first.labels))
        return [list(found[i]) for i in range(len(chats))]

    def _scorer(self, weights: Weights) -> Scorer:
        scorer = self.work.resources.scorer(weights)
        self.about["scorer"] = scorer.about
        return scorer

    def _sweep(
        self,
        keys: list[str],
        items: Sequence[T],
        sizes: list[int],
        compute: Callable[[Sequence[T]], list[Row]],
    ) -> list[Row]:
        unique = {key: index for index, key in reversed(list(enumerate(keys)))}
        order = sorted(unique.values(), key=lambda i: (sizes[i], keys[i]))
        size = self.work.recipe.runtime.score_batch
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        if not self._kept:
            self.about["computed"] += len(order)
            found = {
                i: row for batch in batches for i, row in zip(batch, compute([items[i] for i in batch]), strict=True)
            }
            return [found[unique[key]] for key in keys]
        if not self.work.fresh:
            self.work.store.reuse_rows(self.work.artifact, self.journal, unique, name="scores.jsonl")
        done = sum(key in self.journal for key in unique)
        self.about["kept"] += done
        self.work.progress.total(len(unique), "scores", done)
        for batch in batches:
            missing = [i for i in batch if keys[i] not in self.journal]
            if not missing:
                continue
            if self._before is not None:
                check, self._before = self._before, None
                check()
            results = compute([items[i] for i in batch])
            for i, result in zip(batch, results, strict=True):
                if keys[i] not in self.journal:
                    self.journal.add({"key": keys[i], **result})
            done += len(missing)
            self.about["computed"] += len(missing)
            self.work.progress.advance(done, tokens=sum(r.get("tokens", 0) for r in results))
        return [self.journal.row(key) for key in keys]

    def close(self) -> None:
        """Write every score of this stage to scores.jsonl, where later versions of it look for theirs."""
        write_rows(self.work.directory / "scores.jsonl", [self.journal.row(k) for k in sorted(self.journal.lines)])
        self.journal.close()


def _identity(weights: Weights) -> str:
    if isinstance(weights.source, Endpoint):
        # Two addresses may serve two models by one name.
        return f"{weights.source.model} at {weights.source.endpoint}"
    return weights.source.digest if weights.trained is None else f"{weights.source.digest}+{weights.trained.key}"


def _plain(prompt: Prompt) -> list[Message] | str:
    return prompt if isinstance(prompt, str) else list(prompt)


def _length(prompt: Prompt) -> int:
    return len(prompt) if isinstance(prompt, str) else sum(len(m["content"]) for m in prompt)
