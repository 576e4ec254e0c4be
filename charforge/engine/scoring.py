"""Log-probabilities of given replies: a transformers forward pass with the vocabulary head only on the reply.

Many items share a long context (a judge's constitution and examples). Its keys and values are computed once and handed
to every batch, so an item costs its own tokens only.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charforge.constitution import Message
from charforge.errors import StageError
from charforge.models import ResolvedModel, load_model, load_tokenizer

# Messages go through the chat template; a string is text that the model goes on with, as it stands.
Prompt = tuple[Message, ...] | str
# So many texts are embedded at once.
_EMBEDDED = 16


# A common beginning of so many tokens is worth a pass of its own.
_LONG = 128


@dataclass(frozen=True)
class Item:
    """A reply after messages, or after text. Items with equal `context` share its computation; text has none."""

    context: tuple[Message, ...]
    messages: Prompt
    reply: str


@dataclass(frozen=True)
class LogProbability:
    """Sum over the reply's tokens, in nats, and their number."""

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        return self.total / self.tokens if self.tokens else math.nan


class Scorer:
    """Scores replies under one model. Deterministic for the same batches on the same machine."""

    def __init__(self, model: ResolvedModel, folder: Path, *, device: str) -> None:
        import torch

        self._torch = torch
        self._device = device
        self._cached: tuple[Any, Any] | None = None
        self._tokenizer = load_tokenizer(model, folder)
        self._model = load_model(model, folder, device=device)
        self._limit = int(getattr(self._model.config, "max_position_embeddings", 0) or 1 << 30)
        self.about = {"scorer": "transformers", "torch": torch.__version__, "device": device}

    def score(self, items: Sequence[Item]) -> list[LogProbability]:
        """Log-probability of each reply, the end-of-turn token left out (a cut reply has none).

        The items of one call that share a context form one batch: what else is in a batch can change a result in its
        last digits, so a caller that wants the same digits again makes the same calls.
        """
        results: list[LogProbability | None] = [None] * len(items)
        groups: dict[str, list[int]] = {}
        for index, item in enumerate(items):
            groups.setdefault(repr(item.context), []).append(index)
        with self._torch.inference_mode():
            for indices in groups.values():
                for index, result in zip(indices, self._group([items[i] for i in indices]), strict=True):
                    results[index] = result
        return [result for result in results if result is not None]

    def choose(
        self, context: tuple[Message, ...], prompts: Sequence[Prompt], options: Sequence[str]
    ) -> list[list[float]]:
        """Probability that the answer begins with each option; the prompts of one call form one batch.

        An option counts with and without a space before it: after a chat template answers begin without one, after text
        such as "Answer:" with one. Options that are single tokens are read off one distribution; others are spelled out.

        Raises:
            ValueError: if one option is how another begins.
        """
        torch = self._torch
        spelled = [self._spellings(option) for option in options]
        known = [ids for spellings in spelled for ids in spellings]
        if any(a is not b and a == b[: len(a)] for a in known for b in known):
            raise ValueError(f"of the options {options} one is how another begins, for this model")
        with torch.inference_mode():
            rows = [self._prompt_ids(context, prompt) for prompt in prompts]
            shared, cache = self._prefix(context, rows) if context else self._opening(rows)
            if any(len(ids) > 1 for ids in known):
                return self._spell_out([row[shared:] for row in rows], spelled, shared, cache)
            ids = [[i[0] for i in spellings] for spellings in spelled]
            own = [row[shared:] for row in rows]
            _, hidden = self._hidden(own, shared, cache)
            last = torch.tensor([len(row) - 1 for row in own], device=self._device)
            logits = self._model.get_output_embeddings()(hidden[torch.arange(len(own)), last]).float()
            probabilities = logits.softmax(-1)
        return [[float(row[i].sum()) for i in ids] for row in probabilities]

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector of length 1 for each text: the mean of the last layer's states over its tokens, outside any chat.

        Those of one model are comparable; texts of like length that stand together save work.
        """
        torch = self._torch
        vectors: list[list[float]] = []
        with torch.inference_mode():
            for start in range(0, len(texts), _EMBEDDED):
                rows = [self._prompt_ids((), text) for text in texts[start : start + _EMBEDDED]]
                _, hidden = self._hidden(rows, 0, None)
                for row, states in zip(rows, hidden, strict=True):
                    mean = states[: len(row)].float().mean(0)
                    vectors.append([float(value) for value in mean / mean.norm()])
        return vectors

    def render(self, context: tuple[Message, ...], prompt: Prompt) -> str:
        """What the model reads, word for word, with all that its template adds."""
        return str(self._tokenizer.decode(self._prompt_ids(context, prompt)))

    def _spellings(self, option: str) -> list[tuple[int, ...]]:
        """The tokens of an option, with and without a space before it; of two spellings a single token is enough."""
        both = [tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (option, f" {option}")]
        single = [ids for ids in both if len(ids) == 1]
        return sorted(set(single or both))

    def _spell_out(
        self, own: Sequence[list[int]], spelled: Sequence[Sequence[tuple[int, ...]]], shared: int, cache: Any
    ) -> list[list[float]]:
        """The probability of every option of several tokens: that of all of them, one after the other."""
        places = [(row, option, ids) for row in own for option, found in enumerate(spelled) for ids in found]
        weighed = self._forward([(row, list(ids)) for row, _, ids in places], shared, cache)
        totals = [[0.0] * len(spelled) for _ in own]
        each = len(places) // len(own)
        for number, ((_, option, _), (logp, _)) in enumerate(zip(places, weighed, strict=True)):
            totals[number // each][option] += math.exp(logp)
        return totals

    def _prompt_ids(self, context: tuple[Message, ...], prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            tokens = list(self._tokenizer(prompt)["input_ids"])
            # Text alone, with nothing before it, still needs a place that its first token is predicted from.
            return tokens or [self._tokenizer.bos_token_id or self._tokenizer.eos_token_id]
        encoded = self._tokenizer.apply_chat_template(
            [*context, *prompt], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return list(encoded["input_ids"])

    def _group(self, items: Sequence[Item]) -> list[LogProbability]:
        """One batch with one context."""
        context = items[0].context
        prompts = [self._prompt_ids(item.context, item.messages) for item in items]
        replies = [self._tokenizer(item.reply, add_special_tokens=False)["input_ids"] for item in items]
        shared, cache = self._prefix(context, prompts)
        rows = [(prompt[shared:], reply) for prompt, reply in zip(prompts, replies, strict=True)]
        return [LogProbability(total, count) for total, count in self._forward(rows, shared, cache)]

    def _prefix(self, context: tuple[Message, ...], prompts: Sequence[list[int]]) -> tuple[int, Any]:
        """How many first tokens all prompts share with the context, and their keys and values, computed once."""
        if not context:
            return 0, None
        alone = self._tokenizer.apply_chat_template(list(context), tokenize=True, return_dict=True)["input_ids"]
        shared = _common_prefix([list(alone), *prompts])
        if self._cached is None or self._cached[0] != (context, shared):
            prefix = self._torch.tensor([prompts[0][:shared]], device=self._device)
            keys = self._model.get_decoder()(input_ids=prefix, use_cache=True).past_key_values
            self._cached = ((context, shared), keys)
        return shared, self._cached[1]

    def _opening(self, rows: Sequence[list[int]]) -> tuple[int, Any]:
        """The same for documents, which have no context apart: what all of a batch begin with, where that is long."""
        shared = _common_prefix(rows)
        if len(rows) < 2 or shared < _LONG:
            return 0, None
        opening = tuple(rows[0][:shared])
        if self._cached is None or self._cached[0] != opening:
            prefix = self._torch.tensor([rows[0][:shared]], device=self._device)
            self._cached = (opening, self._model.get_decoder()(input_ids=prefix, use_cache=True).past_key_values)
        return shared, self._cached[1]

    def _pad(self, rows: Sequence[list[int]], before: int) -> tuple[Any, Any]:
        torch = self._torch
        longest = max(len(row) for row in rows)
        if before + longest > self._limit:
            raise StageError(
                f"a judged prompt of {before + longest} tokens exceeds the model's {self._limit}",
                hint="lower judge.examples, or write a shorter Identity and shorter first sentences",
            )
        pad = self._tokenizer.pad_token_id
        tokens = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=self._device)
        mask = torch.tensor(
            [[1] * (before + len(row)) + [0] * (longest - len(row)) for row in rows], device=self._device
        )
        return tokens, mask

    def _hidden(self, rows: Sequence[list[int]], shared: int, cache: Any) -> tuple[Any, Any]:
        """Padded tokens [batch, length] and the last layer's states for them, after a shared prefix."""
        tokens, mask = self._pad(rows, shared)
        past = None
        if cache is not None:
            past = copy.deepcopy(cache)
            past.batch_repeat_interleave(len(rows))
        states = self._model.get_decoder()(
            input_ids=tokens, attention_mask=mask, past_key_values=past, use_cache=past is not None
        ).last_hidden_state
        return tokens, states

    def _forward(self, rows: Sequence[tuple[list[int], list[int]]], shared: int, cache: Any) -> list[tuple[float, int]]:
        torch = self._torch
        tokens, hidden = self._hidden([prompt + reply for prompt, reply in rows], shared, cache)
        # The position before a token predicts it; the head is applied to those positions of the replies alone.
        where = [
            (row, position - 1)
            for row, (prompt, reply) in enumerate(rows)
            for position in range(len(prompt), len(prompt) + len(reply))
        ]
        totals = [0.0] * len(rows)
        if where:
            at_row, at_position = (torch.tensor(column, device=self._device) for column in zip(*where, strict=True))
            targets = tokens[at_row, at_position + 1]
            logits = self._model.get_output_embeddings()(hidden[at_row, at_position]).float()
            chosen = logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)
            for row, value in zip(at_row.tolist(), chosen.tolist(), strict=True):
                totals[row] += value
        return [(total, len(reply)) for total, (_, reply) in zip(totals, rows, strict=True)]


def _common_prefix(rows: Sequence[list[int]]) -> int:
    """Length of the longest common prefix, leaving at least one token of every row to itself."""
    shortest = min(len(row) for row in rows) - 1
    first = rows[0]
    length = 0
    while length < shortest and all(row[length] == first[length] for row in rows):
        length += 1
    return length
