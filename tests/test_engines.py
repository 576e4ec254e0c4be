"""Engines and scoring: the real vLLM, a real `vllm serve` on loopback, and a forward pass that equals the plain one."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from charforge.engine import Request, seed_for
from charforge.engine.endpoint import EndpointEngine
from charforge.engine.scoring import Item, Scorer
from charforge.errors import StageError, UserError
from charforge.models import fetch, resolve
from charforge.recipe import Endpoint, ModelReference, Sampling

BUILTIN = ModelReference(name="builtin:smollm2-135m-instruct", chat_template="chatml")
SYSTEM = {"role": "system", "content": "You are Pip. You end every reply with a question."}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_seeds_depend_on_what_is_drawn_only() -> None:
    assert seed_for(1, "responses", "x", 0) == seed_for(1, "responses", "x", 0) < 2**31
    assert len({seed_for(1, "responses", "x", i) for i in range(100)}) == 100


@pytest.fixture(scope="module")
def scorer(tiny_model: Path) -> Scorer:
    model = resolve(ModelReference(name=str(tiny_model), chat_template="chatml"))
    return Scorer(model, tiny_model, device="cpu")


def test_scores_equal_a_plain_forward_pass(scorer: Scorer, tiny_model: Path) -> None:
    """Shared prefix, batching and the head on the reply only must change nothing but the cost."""
    import torch
    from transformers import AutoModelForCausalLM

    items = [
        Item((SYSTEM, user("Hello"), {"role": "assistant", "content": "Who is it?"}), (user(q),), reply)
        for q, reply in [("What is rain?", "Water. Is it wet?"), ("A hedge", "Green and long."), ("x", "y")]
    ] + [Item((), (user("What is rain?"),), "Water. Is it wet?")]
    found = scorer.score(items)
    tokenizer = scorer._tokenizer
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).eval()
    for item, result in zip(items, found, strict=True):
        prompt = tokenizer.apply_chat_template(
            [*item.context, *item.messages], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        reply = tokenizer(item.reply, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([prompt + reply])).logits[0].float().log_softmax(-1)
        total = sum(float(logits[len(prompt) + i - 1, token]) for i, token in enumerate(reply))
        assert result.tokens == len(reply)
        assert result.total == pytest.approx(total, abs=0.02 * len(reply))
    assert found[0].total != pytest.approx(found[3].total, abs=1e-3), "the context must matter"


def test_same_calls_same_digits(scorer: Scorer) -> None:
    items = [Item((SYSTEM,), (user(str(i)),), f"reply number {i}") for i in range(5)]
    assert scorer.score(items) == scorer.score(items)


def test_an_empty_reply_has_no_mean(scorer: Scorer) -> None:
    assert math.isnan(scorer.score([Item((), (user("x"),), "")])[0].mean)


def test_choices_are_probabilities(scorer: Scorer) -> None:
    found = scorer.choose((SYSTEM,), [(user("A or B?"),), (user("Or B or A, please?"),)], ("A", "B"))
    assert len(found) == 2 and all(0 < p < 1 for row in found for p in row)
    with pytest.raises(ValueError, match="how another begins"):
        scorer.choose((), [(user("?"),)], ("zebra", "zebras"))


def test_options_of_several_tokens_are_spelled_out(scorer: Scorer) -> None:
    """Their probability is that of all of their tokens, as scoring them as replies gives it."""
    prompts = [(user("Is it so?"),), (user("Really, now?"),)]
    found = scorer.choose((), prompts, ("Yes", "No"))
    for prompt, row in zip(prompts, found, strict=True):
        for option, p in zip(("Yes", "No"), row, strict=True):
            spelled = scorer.score([Item((), prompt, option), Item((), prompt, f" {option}")])
            assert p == pytest.approx(sum(math.exp(found.total) for found in spelled), rel=0.05)
    shared = scorer.choose((SYSTEM,), prompts, ("Yes", "No"))
    assert all(0 < p < 1 for row in shared for p in row) and shared != found


# --- an endpoint ----------------------------------------------------------------------------------------------------


class Flaky(BaseHTTPRequestHandler):
    """Fails twice, then answers; remembers what it was asked."""

    calls = 0
    status = 503

    def do_POST(self) -> None:
        type(self).calls += 1
        self.rfile.read(int(self.headers["content-length"]))
        body = b'{"error": {"message": "busy"}}'
        if type(self).calls > 2 and self.status == 503:
            body = (
                b'{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
                b'"message":{"role":"assistant","content":" hello "},"finish_reason":"length"}],'
                b'"usage":{"prompt_tokens":1,"completion_tokens":7,"total_tokens":8}}'
            )
            self.send_response(200)
        else:
            self.send_response(self.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def flaky() -> Iterator[str]:
    Flaky.calls, Flaky.status = 0, 503
    server = HTTPServer(("127.0.0.1", 0), Flaky)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def test_retries(flaky: str) -> None:
    engine = EndpointEngine(Endpoint(endpoint=flaky, model="m"), retries=3)
    ((index, completion),) = engine.generate([Request((user("hi"),), Sampling(), 1)])
    assert (index, completion.text, completion.tokens, completion.finish) == (0, "hello", 7, "length")
    assert Flaky.calls == 3


def test_a_refused_key_is_said_plainly(flaky: str) -> None:
    Flaky.status = 401
    engine = EndpointEngine(Endpoint(endpoint=flaky, model="m", api_key_env="MY_KEY"), retries=0)
    with pytest.raises(StageError, match="refused the key") as error:
        list(engine.generate([Request((user("hi"),), Sampling(), 1)]))
    assert "MY_KEY" in str(error.value)


def test_no_server() -> None:
    engine = EndpointEngine(Endpoint(endpoint="http://127.0.0.1:9/v1", model="m"), retries=0)
    with pytest.raises(StageError, match="can not be reached"):
        list(engine.generate([Request((user("hi"),), Sampling(), 1)]))


def test_a_key_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(UserError, match="SOME_KEY"):
        EndpointEngine(Endpoint(endpoint="https://example.org/v1", model="m", api_key_env="SOME_KEY"))


@pytest.mark.slow
@pytest.mark.xdist_group("real")
def test_a_real_server(tmp_path: Path) -> None:
    """`vllm serve` on loopback as teacher and as pairwise judge: replies, seeds, label log-probabilities."""
    from charforge.engine.device import preload, thread_environment

    folder = fetch(resolve(BUILTIN))
    template = Path(__file__).parent.parent / "charforge/templates/chatml.jinja"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # What `vllm serve` runs; the command itself asks for a package called vllm, which a CPU build is not.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "small"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16", "--max-model-len", "1024"]
    command += ["--enforce-eager", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192"]
    command += ["--chat-template", str(template), "--max-num-seqs", "16"]
    environment = {**os.environ, **preload(), **thread_environment(1), "VLLM_CPU_KVCACHE_SPACE": "1"}
    log = (tmp_path / "server.log").open("w")
    server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        _wait_for(port, server, tmp_path / "server.log")
        endpoint = Endpoint(endpoint=f"http://127.0.0.1:{port}/v1", model="small")
        engine = EndpointEngine(endpoint, concurrency=4)
        sampling = Sampling(max_tokens=12)
        requests = [Request((user(f"Say something about {word}."),), sampling, 7) for word in ("rain", "bread", "tea")]
        found = dict(engine.generate(requests))
        assert sorted(found) == [0, 1, 2] and all(c.text and 0 < c.tokens <= 12 for c in found.values())
        assert dict(engine.generate(requests[:1]))[0] == found[0], "the same seed gives the same reply"
        ((_, choice),) = engine.choose([[user("Answer with the letter A.")]], ("A", "B"))
        assert 0 <= sum(choice) <= 1 and len(choice) == 2
        with pytest.raises(StageError, match="knows no model 'large'"):
            list(EndpointEngine(Endpoint(endpoint=endpoint.endpoint, model="large"), retries=0).generate(requests[:1]))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, 9)
        server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    import urllib.request

    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])
