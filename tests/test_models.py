"""Model references: what pins them, and what goes wrong with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from charforge import models
from charforge.errors import UserError
from charforge.models import fetch, load_tokenizer, resolve
from charforge.recipe import ModelReference

BUILTIN = "builtin:smollm2-135m-instruct"


def reference(name: str, **more: Any) -> ModelReference:
    return ModelReference(name=name, **more)


def test_unknown_builtin() -> None:
    with pytest.raises(UserError, match="did you mean 'smollm2-135m-instruct'"):
        resolve(reference("builtin:smollm2-135m"))


def test_a_builtin_is_pinned_without_being_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHARFORGE_CACHE", str(tmp_path))
    found = resolve(reference(BUILTIN))
    assert found.identity["weights"]["gguf_sha256"] == models.BUILTINS["smollm2-135m-instruct"].sha256
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [("./nowhere", "no such model folder"), ("/dev/null", "this is a file")],
)
def test_unreadable_path(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(reference(name))


def test_incomplete_folder(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"missing: config\.json, \*\.safetensors .* a tokenizer"):
        resolve(reference(str(tmp_path)))


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub model where no hub can be reached; the port is closed, so the answer is quick."""
    import huggingface_hub

    real = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: real(endpoint="http://127.0.0.1:9"))
    with pytest.raises(UserError, match="can not be reached") as error:
        resolve(reference("nobody/nothing-at-all"))
    assert "builtin:" in str(error.value)


def test_gated_model(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    class Api:
        def model_info(self, *_: Any, **__: Any) -> None:
            raise GatedRepoError.__new__(GatedRepoError)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    with pytest.raises(UserError, match="is gated") as error:
        resolve(reference("org/gated-model"))
    assert "HF_TOKEN" in str(error.value)


def test_wrong_digest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHARFORGE_CACHE", str(tmp_path))
    file = tmp_path / "fake.gguf"
    file.write_bytes(b"not the weights")
    monkeypatch.setattr(models, "_download_builtin", lambda *_: file)
    with pytest.raises(UserError, match="wrong digest"):
        fetch(resolve(reference(BUILTIN)))
    assert not list((tmp_path / "models").glob("smollm2*/complete"))


def test_builtin_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHARFORGE_CACHE", str(tmp_path))
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="could not be fetched with pip") as error:
        fetch(resolve(reference(BUILTIN)))
    assert "downloads" in str(error.value)


def test_disk_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHARFORGE_CACHE", str(tmp_path))

    def full(*_: Any) -> Path:
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr(models, "_download_builtin", full)
    with pytest.raises(UserError, match="disk is full"):
        fetch(resolve(reference(BUILTIN)))


def test_templates(tiny_model: Path, tmp_path: Path) -> None:
    """A base model has no template: it gets ChatML by default, a file if asked for, and `own` is an error."""
    default = resolve(reference(str(tiny_model)))
    assert "<|im_start|>user\nhi<|im_end|>" in render(default, tiny_model)
    own = tmp_path / "own.jinja"
    own.write_text("{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}")
    assert render(resolve(reference(str(tiny_model), chat_template=str(own))), tiny_model) == "[user] hi"
    with pytest.raises(UserError, match="no chat template of its own"):
        resolve(reference(str(tiny_model), chat_template="own"))
    with pytest.raises(UserError, match="can not be read"):
        resolve(reference(str(tiny_model), chat_template=str(tmp_path / "none.jinja")))
    own.write_text("{% for m in %}")
    resolve.cache_clear()
    with pytest.raises(UserError, match="not valid"):
        resolve(reference(str(tiny_model), chat_template=str(own)))


def render(model: models.ResolvedModel, folder: Path) -> str:
    tokenizer = load_tokenizer(model, folder)
    return str(tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False))


def test_identity_follows_the_files(tiny_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    assert resolve(reference(str(copy))).digest == resolve(reference(str(tiny_model))).digest
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rope_theta": 1}))
    resolve.cache_clear()
    assert resolve(reference(str(copy))).digest != resolve(reference(str(tiny_model))).digest


@pytest.mark.slow
def test_the_builtin_model_speaks(tmp_path: Path) -> None:
    """Fetched, converted, safetensors only; its identity template has no default system prompt when told so."""
    model = resolve(reference(BUILTIN, chat_template="chatml"))
    folder = fetch(model)
    assert (folder / "model.safetensors").stat().st_size > 200_000_000
    assert not list(folder.glob("*.bin"))
    assert "SmolLM" not in render(model, folder)
    assert "SmolLM" in render(resolve(reference(BUILTIN)), folder)
