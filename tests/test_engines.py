"""Engines and scoring: the real vLLM, a real `vllm serve` on loopback, and a forward pass that equals the plain one."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from charforge.engine import Chunk, Engine, Request, seed_for
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


class Streaming(BaseHTTPRequestHandler):
    """Says its words one after the other as server-sent events; `slow` never ends, `bad` is refused."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = asked["messages"][-1]["content"]
        assert asked["stream"] and asked["stream_options"] == {"include_usage": True}
        self.send_response(400 if text == "bad" else 200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        if text == "bad":
            return
        words = [" ", "Hello", " from", f" {asked['seed']}", ".", "\n"]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for number in range(10_000 if text == "slow" else len(words)):
                self.event({"choices": [{"index": 0, "delta": {"content": words[number % len(words)]}}]})
                time.sleep(0.02)
            self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
            self.event({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 9, "total_tokens": 10}})
            self.wfile.write(b"data: [DONE]\n\n")

    def event(self, data: dict[str, Any]) -> None:
        about = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        self.wfile.write(f"data: {json.dumps({**about, **data})}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        return


def heard(engine: Engine, *keys: str, slow: str = "") -> dict[str, list[Chunk]]:
    """The chunks of replies under way, until all of these are done or have failed; `slow` need not be."""
    found: dict[str, list[Chunk]] = {key: [] for key in (*keys, *([slow] if slow else []))}
    deadline = time.monotonic() + 120
    while not all(chunks and (chunks[-1].completion or chunks[-1].failed) for chunks in map(found.get, keys)):
        assert time.monotonic() < deadline, found
        for chunk in engine.advance():
            found[chunk.key].append(chunk)
        time.sleep(0.005)
    return found


def test_an_endpoint_streams() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Streaming)
    Thread(target=server.serve_forever, daemon=True).start()
    endpoint = Endpoint(endpoint=f"http://127.0.0.1:{server.server_port}/v1", model="m")
    engine = EndpointEngine(endpoint, retries=0, concurrency=3)
    for key, text in (("a", "hi"), ("bad", "bad"), ("slow", "slow"), ("b", "hi")):
        assert engine.start(key, Request((user(text),), Sampling(), len(key))) is None
    engine.start("c", Request((user("hi"),), Sampling(), 3))
    found = heard(engine, "a", "b", "bad", "c", slow="slow")
    assert len(found.pop("slow")) > 2
    engine.stop("slow")
    time.sleep(0.1)
    assert not list(engine.advance()), "nothing more is said of the one that was stopped"
    chunks = found["c"]
    assert "".join(chunk.text for chunk in chunks) == "Hello from 3." and len(chunks) > 3
    assert "answered 400" in str(found["bad"][-1].failed)
    assert chunks[-1].completion is not None and chunks[-1].completion.text == "Hello from 3."
    assert (chunks[-1].completion.finish, chunks[-1].completion.tokens) == ("length", 9)
    with pytest.raises(StageError, match="begin a reply"):
        engine.start("no", Request((user("hi"),), Sampling(), 1, prefill="Well"))
    with pytest.raises(StageError, match="go on with a document"):
        engine.start("no", Request((), Sampling(), 1, document="Once"))
    engine.close()
    server.shutdown()


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
        for index, request in enumerate(requests):
            engine.start(str(index), request)
        for key, chunks in heard(engine, "0", "1", "2").items():
            whole, last = "".join(chunk.text for chunk in chunks), chunks[-1].completion
            assert last is not None and whole == last.text == found[int(key)].text, (
                "streamed, the same seed says the same"
            )
            assert last.tokens == found[int(key)].tokens and last.finish == found[int(key)].finish
        engine.close()
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
