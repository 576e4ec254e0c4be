"""The real vLLM: replies as they are said, and several adapters on one engine, each request under its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from charforge.engine import Chunk, Engine, Request
from charforge.errors import StageError
from charforge.models import merge_adapter, resolve
from charforge.recipe import ModelReference, Sampling, Vllm

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real")]

GREEDY = Sampling(temperature=0, max_tokens=12)
WARM = Sampling(temperature=0.9, max_tokens=24)
PROMPTS = ["What is rain?", "How do I boil an egg?", "Name a small bird."]


def request(text: str, sampling: Sampling = GREEDY, seed: int = 1, **more: Any) -> Request:
    return Request(({"role": "user", "content": text},), sampling, seed, **more)


def adapter(model: Path, target: Path, rank: int, seed: int) -> Path:
    """An adapter with weights so large that it says something else."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    wrapped = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    wrapped.save_pretrained(target)
    return target


def texts(engine: Engine, requests: list[Request]) -> list[str]:
    found = dict(engine.generate(requests))
    return [found[index].text for index in range(len(requests))]


def finished(engine: Engine, *keys: str) -> dict[str, list[Chunk]]:
    """The chunks of replies under way, until all of these are done."""
    found: dict[str, list[Chunk]] = {key: [] for key in keys}
    while not all(chunks and chunks[-1].completion for chunks in found.values()):
        for chunk in engine.advance():
            found[chunk.key].append(chunk)
    return found


def widened(tiny: Path, target: Path) -> Path:
    """The tiny model with attention heads as wide as vLLM's kernels for CPU want them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(tiny, hidden_size=128, head_dim=32)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def opened(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, list[Path], Callable[[Path], Engine]]]:
    """One engine with room for two adapters of other ranks, and a way to open another on weights of its own."""
    from charforge.engine.vllm import VllmEngine

    before = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    folder = tmp_path_factory.mktemp("adapters")
    base = widened(tiny_model, folder / "base")
    adapters = [adapter(base, folder / "small", 4, 1), adapter(base, folder / "large", 16, 2)]
    model = resolve(ModelReference(name=str(base), chat_template="chatml"))
    settings = Vllm(cpu_kv_gib=1, concurrency=4, max_length=512)
    engines: list[Any] = [VllmEngine(model, base, settings, device="cpu", adapters=adapters)]

    def merged(path: Path) -> Engine:
        target = folder / f"merged-{path.name}"
        target.mkdir()
        merge_adapter(model, base, path, target)
        engines.append(VllmEngine(model, target, settings, device="cpu"))
        return engines[-1]  # type: ignore[no-any-return]

    yield engines[0], adapters, merged
    for engine in engines:
        engine.close()
    # vLLM writes what it finds out into the environment, where later tests' children would read it.
    for name in set(os.environ) - set(before) - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update(before)


def test_what_is_streamed_is_what_is_generated(opened: Any) -> None:
    engine = opened[0]
    asked = [
        request("What is rain?", WARM, 3),
        request("", WARM, 4, document="The rain fell"),
        request("x", WARM, 5, prefill="Well,"),
    ]
    for number, each in enumerate(asked):
        ((_, whole),) = engine.generate([each])
        read = engine.start(f"k{number}", each)
        (chunks,) = finished(engine, f"k{number}").values()
        last = chunks[-1].completion
        assert last is not None and last == whole and read == whole.prompt
        assert last.tokens == chunks[-1].tokens > 1
        said = "".join(chunk.text for chunk in chunks)
        assert (said if number == 0 else said.lstrip()) == whole.text and len(chunks) > 1
    assert not list(engine.advance())


def test_replies_begin_and_end_while_others_go_on(opened: Any) -> None:
    engine = opened[0]
    long = request("Tell me all.", Sampling(temperature=1.5, max_tokens=200), 6)
    engine.start("long", long)
    heard = [chunk for _ in range(5) for chunk in engine.advance()]
    assert {chunk.key for chunk in heard} == {"long"}
    engine.start("short", request("Hello", Sampling(temperature=0, max_tokens=3)))
    engine.stop("long")
    engine.stop("never begun")
    assert finished(engine, "short")["short"][-1].tokens <= 3, "nothing more is said of the one that was stopped"
    assert not engine._llm.llm_engine.has_unfinished_requests()
    with pytest.raises(StageError, match="does not fit"):
        engine.start("huge", request("word " * 2000))
    assert texts(engine, [request("Hello")])


def test_each_request_is_under_its_own_adapter(opened: Any) -> None:
    """Two adapters on one engine, mixed in every step: each says what the model says with that adapter merged into it."""
    engine, adapters, merged = opened
    requests = [request(text) for text in PROMPTS]
    views = {path.name: engine.under(path) for path in adapters}
    for place, each in enumerate(requests):
        for view in views.values():
            view.start(f"{place}", each)
    with pytest.raises(AssertionError):
        # On CPU vLLM would give it an adapter.
        engine.start("without", requests[0])
    keys = [str(place) for place in range(len(requests))]
    done: dict[str, dict[str, str]] = {name: {} for name in views}
    while any(len(found) < len(keys) for found in done.values()):
        for name, view in views.items():
            for chunk in view.advance():
                if chunk.completion:
                    done[name][chunk.key] = chunk.completion.text
    said = {name: [found[key] for key in keys] for name, found in done.items()}
    said["base"] = texts(engine, requests)
    assert said["base"] == texts(engine.under(None), requests)
    for path in adapters:
        assert texts(views[path.name], requests) == said[path.name]
        assert sum(len(text) >= 12 for text in said[path.name]) >= 2, "there is something to compare"
        # Merged weights are rounded once more, so that a late token may differ.
        alone = texts(merged(path), requests)
        assert [text[:12] for text in said[path.name]] == [text[:12] for text in alone], path.name
    assert len({tuple(replies) for replies in said.values()}) == 3
