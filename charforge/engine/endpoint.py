"""Any OpenAI-compatible endpoint, for a large teacher or judge. Keys come from the environment only."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import math
import os
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import openai

from charforge.engine import Chunk, Completion, Growing, Request
from charforge.errors import CharforgeError, StageError, UserError
from charforge.recipe import Endpoint

T = TypeVar("T")


class EndpointEngine:
    """Requests with bounded concurrency; failed ones are retried with exponential backoff by the client library."""

    about: dict[str, Any]

    def __init__(self, endpoint: Endpoint, *, concurrency: int = 8, retries: int = 6, timeout: float = 600) -> None:
        self._endpoint = endpoint
        self._concurrency = concurrency
        local = "://127.0.0.1" in endpoint.endpoint or "://localhost" in endpoint.endpoint
        key = os.environ.get(endpoint.api_key_env) or ("none" if local else None)
        if key is None:
            raise UserError(
                f"the endpoint {endpoint.endpoint} needs a key in the environment variable {endpoint.api_key_env}",
                hint=f"set it in your shell: export {endpoint.api_key_env}=... (keys are never written down by charforge)",
            )
        self._client: Callable[[], openai.AsyncOpenAI] = lambda: openai.AsyncOpenAI(
            base_url=endpoint.endpoint, api_key=key, max_retries=retries, timeout=timeout
        )
        self.about = {"engine": "endpoint", "model": endpoint.model, "client": f"openai {openai.__version__}"}
        self._chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._streams: dict[str, concurrent.futures.Future[None]] = {}

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        async def ask(client: openai.AsyncOpenAI, request: Request) -> Completion:
            answer = await client.chat.completions.create(**self._options(request))
            choice = answer.choices[0]
            text = (choice.message.content or "").strip()
            tokens = answer.usage.completion_tokens if answer.usage else len(text.split())
            return Completion(text, tokens, "length" if choice.finish_reason == "length" else "stop")

        return self._spread(ask, requests)

    def _options(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        if request.prefill:
            raise StageError("an endpoint can not be made to begin a reply", place=self._endpoint.endpoint)
        if request.document is not None:
            raise StageError("an endpoint for chat can not go on with a document", place=self._endpoint.endpoint)
        return {
            "model": self._endpoint.model,
            "messages": list(request.messages),
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "seed": request.seed,
            # min_p is an extension that vLLM and others understand; it is left out where it changes nothing.
            "extra_body": {"min_p": sampling.min_p} if sampling.min_p and sampling.temperature > 0 else None,
        }

    def start(self, key: str, request: Request) -> str | None:
        options = self._options(request)
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, daemon=True).start()
            self._streaming = self._client()
            self._gate = asyncio.Semaphore(self._concurrency)
        self._streams[key] = asyncio.run_coroutine_threadsafe(self._stream(key, options, Growing(request)), self._loop)
        return None

    async def _stream(self, key: str, options: dict[str, Any], growing: Growing) -> None:
        whole, tokens, finish = "", 0, "stop"
        try:
            async with self._gate:
                answer = await self._streaming.chat.completions.create(
                    **options, stream=True, stream_options={"include_usage": True}
                )
                async with answer:
                    async for part in answer:
                        if part.usage is not None:
                            tokens = part.usage.completion_tokens
                        for choice in part.choices:
                            finish = choice.finish_reason or finish
                            if choice.delta.content:
                                whole += choice.delta.content
                                new = growing.grow(whole)
                                # How many tokens there are is known at the end; most servers send one at a time.
                                tokens += 1
                                self._chunks.put(Chunk(key, new, tokens))
        except Exception as error:
            found = self._explain(error)
            why = str(found) if isinstance(found, CharforgeError) else f"{type(found).__name__}: {found}"
            self._chunks.put(Chunk(key, "", tokens, failed=why))
        else:
            end = "length" if finish == "length" else "stop"
            self._chunks.put(Chunk(key, "", tokens, Completion(growing.text, tokens, end)))

    def advance(self) -> Iterator[Chunk]:
        with contextlib.suppress(queue.Empty):
            while True:
                chunk = self._chunks.get_nowait()
                if chunk.key not in self._streams:
                    continue
                if chunk.failed is not None or chunk.completion is not None:
                    del self._streams[chunk.key]
                yield chunk

    def stop(self, key: str) -> None:
        stream = self._streams.pop(key, None)
        if stream is not None:
            stream.cancel()

    def choose(
        self, prompts: Sequence[Sequence[dict[str, str]]], options: Sequence[str]
    ) -> Iterator[tuple[int, list[float]]]:
        """Probability of each option (a single token such as "A") as the first token of the answer."""

        async def ask(client: openai.AsyncOpenAI, messages: Sequence[dict[str, str]]) -> list[float]:
            answer = await client.chat.completions.create(
                model=self._endpoint.model,
                messages=list(messages),  # type: ignore[arg-type]
                temperature=0,
                max_tokens=1,
                logprobs=True,
                top_logprobs=20,
            )
            logprobs = answer.choices[0].logprobs
            if logprobs is None or not logprobs.content:
                raise StageError(
                    f"the endpoint {self._endpoint.endpoint} returned no log-probabilities",
                    hint="a pairwise judge reads the label's log-probability; use a server that returns them",
                )
            found = dict.fromkeys(options, 0.0)
            for candidate in logprobs.content[0].top_logprobs:
                label = candidate.token.strip()
                if label in found:
                    found[label] += math.exp(candidate.logprob)
            return [found[option] for option in options]

        return self._spread(ask, prompts)

    def _spread(
        self, ask: Callable[[openai.AsyncOpenAI, Any], Awaitable[T]], items: Sequence[Any]
    ) -> Iterator[tuple[int, T]]:
        """Run `ask` over the items on a thread with its own event loop; yield results as they finish."""
        results: queue.Queue[tuple[int, T] | BaseException | None] = queue.Queue()

        async def everything() -> None:
            gate = asyncio.Semaphore(self._concurrency)
            async with self._client() as client:

                async def one(index: int, item: Any) -> None:
                    async with gate:
                        results.put((index, await ask(client, item)))

                async with asyncio.TaskGroup() as group:
                    for index, item in enumerate(items):
                        group.create_task(one(index, item))

        def target() -> None:
            try:
                asyncio.run(everything())
                results.put(None)
            except BaseException as error:
                results.put(error)

        threading.Thread(target=target, daemon=True).start()
        while (result := results.get()) is not None:
            if isinstance(result, BaseException):
                raise self._explain(result)
            yield result

    def _explain(self, error: BaseException) -> BaseException:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        place = self._endpoint.endpoint
        if isinstance(error, openai.AuthenticationError):
            return StageError(
                "the endpoint refused the key",
                place=place,
                hint=f"check the variable {self._endpoint.api_key_env}",
            )
        if isinstance(error, openai.NotFoundError):
            return StageError(f"the endpoint knows no model {self._endpoint.model!r}", place=place)
        if isinstance(error, openai.APIConnectionError):
            return StageError("the endpoint can not be reached", place=place, hint="is the server running?")
        if isinstance(error, openai.APIStatusError):
            return StageError(f"the endpoint answered {error.status_code}: {error.message[:300]}", place=place)
        return error

    def close(self) -> None:
        for key in list(self._streams):
            self.stop(key)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None
