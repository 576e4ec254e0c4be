"""Sharing: what is exported loads elsewhere, what is imported is what was exported, and the hub's API is spoken."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from charforge import characters, registry, sharing
from charforge.constitution import digest, load
from charforge.errors import UserError
from charforge.models import fetch, load_tokenizer, merge_adapter, resolve
from charforge.recipe import ModelReference, Recipe, Vllm
from charforge.registry import Entry
from charforge.report.card import estimate
from charforge.store import Store
from charforge.train.stages import trained_folder
from tests.conftest import BANK, SMALL, run_cli
from tests.test_pipeline import kill_when
from tests.test_registry import killed_at, made
from tests.test_report import example_report

HELLO = [{"role": "user", "content": "What is rain?"}]


def lora(model: ModelReference, target: Path, seed: int = 0) -> None:
    """An adapter as training leaves it, with weights that change what the model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    resolved = resolve(model)
    folder = fetch(resolved)
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tuned = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    tuned.save_pretrained(target)
    load_tokenizer(resolved, folder).save_pretrained(target)
    (target / "README.md").unlink()
    config = json.loads((target / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = model.name
    (target / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    lora(ModelReference(name=str(tiny_model), chat_template="chatml"), folder)
    return folder


Make = Callable[..., tuple[Store, Entry]]


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path, adapter: Path) -> Make:
    """Registers a character with real weights and a report that has everything, hostile text included."""

    def call(text: str = SMALL, model: str = str(tiny_model), weights: Path = adapter, **changes: Any) -> Any:
        store = Store(tmp_path / "store")
        store.prepare()
        (tmp_path / "pip.md").write_text(text, encoding="utf-8")
        (tmp_path / "bank.yaml").write_text(BANK, encoding="utf-8")
        constitution = load(tmp_path / "pip.md")
        recipe = Recipe.model_validate(
            {
                "constitution": str(tmp_path / "pip.md"),
                "model": {"name": model, "chat_template": "chatml"},
                "scenarios": {"bank": str(tmp_path / "bank.yaml")},
            }
        )
        settings = characters.settings(recipe)
        report = example_report()
        report["character"] |= {"name": "Pip", "version": constitution.front.version}
        report["character"] |= {"reference": constitution.reference, "summary": constitution.front.summary}
        report |= changes
        identity = {
            "constitution": constitution.digest,
            "model": resolve(recipe.model).identity,
            "recipe": settings,
        }
        judge = made(store, "judge", {"c": constitution.digest}, {}, **{"rows.jsonl": ""})
        version = {"stage": "character", "version": 1, "identity": identity, "inputs": {"judge": judge.key}}
        folder = store.artifact("character", digest(version)).directory
        shutil.copytree(weights, folder / "adapter", dirs_exist_ok=True)
        (folder / "logs").mkdir(exist_ok=True)
        (folder / "logs" / "worker.json").write_text(json.dumps({"recipe": recipe.model_dump(mode="json")}))
        artifact = made(
            store,
            "character",
            identity,
            {"judge": judge},
            **{
                "constitution.md": text,
                "recipe.json": json.dumps(settings),
                "bank.yaml": BANK,
                "report.json": json.dumps(report),
                "report.html": "<!doctype html>",
            },
        )
        registry.register(store, artifact, constitution.reference)
        return store, next(e for e in registry.entries(store) if e.key == artifact.key)

    return call


def texts(folder: Path) -> dict[str, str]:
    """Every file that is no weights, by name."""
    return {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".safetensors", ".gguf")
    }


def metadata(folder: Path) -> dict[str, Any]:
    _, block, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    data: dict[str, Any] = yaml.safe_load(block)
    return data


def speak(model: Any, tokenizer: Any) -> list[int]:
    """The greedy reply, as tokens."""
    prompt = tokenizer.apply_chat_template(HELLO, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    reply = model.generate(**prompt, max_new_tokens=16, do_sample=False)
    tokens: list[int] = reply[0, prompt["input_ids"].shape[1] :].tolist()
    return tokens


def run_card(folder: Path, base: Path) -> str:
    """Run the Python of a model card in its folder, as a reader would; the base model lies there under its name."""
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    place = folder.parent / f"{folder.name}-run"
    shutil.copytree(folder, place)
    (place / base.name).symlink_to(base)
    command = [sys.executable, "-c", "\n".join(blocks)]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- export -----------------------------------------------------------------------------------------------------------


def test_an_export_holds_what_a_reader_expects(make: Make, tmp_path: Path, tiny_model: Path) -> None:
    _, entry = make()
    done = run_cli("export", "pip", "out", "--store", "store", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "README.md", "adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "chat_template.jinja",
        "constitution.md", "recipe.json", "bank.yaml", "report.json", "report.html", "data_card.json", "manifest.json",
        "charforge.json",
    }  # fmt: skip
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))] and "logs" not in names
    listing = json.loads((out / "charforge.json").read_text(encoding="utf-8"))
    assert (
        listing["key"] == entry.key
        and listing["reference"] == "pip@1.0.0"
        and set(listing["files"]) == names - {"charforge.json"}
    )
    for name, found in listing["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == found["sha256"], name
    config = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == tiny_model.name
    data = json.loads((out / "data_card.json").read_text(encoding="utf-8"))
    assert data == json.loads((entry.folder / "report.json").read_text(encoding="utf-8"))["data"]
    for name, text in texts(out).items():
        assert str(tmp_path) not in text and str(tiny_model.parent) not in text, name


def test_the_card_says_what_the_report_says(make: Make, tmp_path: Path) -> None:
    store, entry = make()
    sharing.export(store, entry, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (.*?) \| (.*) \|$", card, re.MULTILINE))
    arms = [arm["id"] for arm in report["arms"]]
    measures = report["measures"]
    win = measures["expression"]["likelihood_ratio"]["overall"]
    shown = rows["preferred to the untrained model's reply by the likelihood ratio judge"].split(" | ")
    assert shown == ["-", *(estimate(win[arm]) for arm in arms[1:])] and "0.91 [0.86, 0.94]" in shown
    marker = measures["markers"]["voice"]["ends with a question"]
    assert rows["replies that pass: ends with a question"].split(" | ") == [estimate(marker[arm]) for arm in arms]
    declined = [estimate(measures["refusals"]["boundary"][arm]["in character"]) for arm in arms]
    assert rows["declined in character, of what its boundaries are about"].split(" | ") == declined
    words = [estimate(measures["fluency"][arm]["words"]) for arm in arms]
    assert rows["words per reply"].split(" | ") == words and "41.00 [38.00, 44.00]" in words
    # Every number with an interval in the card is one of the report's: nothing is invented.
    known = {estimate(value) for value in estimates(report)}
    intervals = set(re.findall(r"-?\d+\.\d\d \[-?[\d.]+, -?[\d.]+\]", card))
    assert intervals and intervals <= known
    assert "is right on 0.86 [0.74, 0.93] of\n  50 held-out" in card and "its verdicts are not shown" in card
    assert "charforge eval`: not measured" in card
    assert "Only 20 held-out prompts" in card
    # What the report could not measure has no row, and no number.
    assert "declined, of harmless look-alikes" not in rows


def estimates(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "value" in value:
            yield value
        for inner in value.values():
            yield from estimates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from estimates(inner)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "not measured"),
        ({"value": None, "low": None, "high": None}, "not measured"),
        ({"value": 0.5, "low": None, "high": 0.9}, "0.50 (no interval)"),
        ({"value": -0.001, "low": -0.5, "high": 0.5}, "0.00 [-0.50, 0.50]"),
    ],
)
def test_what_was_not_measured_is_called_that(value: Any, shown: str) -> None:
    assert estimate(value) == shown


def test_the_cards_metadata_is_what_the_hub_reads(make: Make, tmp_path: Path) -> None:
    store, entry = make(SMALL.replace("version: 1.0.0", "version: 1.0.0\nlanguage: [en, de]\nlicense: CC-BY-4.0"))
    sharing.export(store, entry, tmp_path / "out")
    found = metadata(tmp_path / "out")
    assert found["library_name"] == "peft" and found["pipeline_tag"] == "text-generation"
    assert found["language"] == ["en", "de"] and {"charforge", "lora"} <= set(found["tags"])
    assert found["license"] == "other" and found["license_name"]
    # A folder's name is no id of the hub, where another model may be called the same.
    assert "base_model" not in found
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "charforge does not know it" in card and "CC-BY-4.0" in card


def test_a_known_base_model_is_named_with_its_licence(make: Make, tmp_path: Path) -> None:
    store, entry = make(model="builtin:smollm2-135m-instruct")
    sharing.export(store, entry, tmp_path / "out")
    found = metadata(tmp_path / "out")
    assert found["license"] == "apache-2.0" and found["base_model_relation"] == "adapter"
    assert found["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "4-bit weights dequantized" in card, "the weights are not quite those that the hub has under that name"
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == found["base_model"]


def test_a_card_shows_hostile_text_and_runs_none(make: Make, tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script> | a [link](http://x.invalid) \u202e`code`"
    store, entry = make(warnings=[nasty])
    sharing.export(store, entry, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "<script>" not in card and "\u202e" not in card and "[link](" not in card
    assert "&lt;script&gt;" in card and "⟦U+202E⟧" in card


def test_numbers_of_the_suites_are_in_the_card(make: Make, tmp_path: Path) -> None:
    store, entry = make()
    number = {
        "name": "share of the voice", "arm": "trained", "condition": "attacks", "trait": None, "against": None,
        "headline": True, "why": None, "value": 0.4321, "low": 0.1, "high": 0.8,
    }  # fmt: skip
    for finished, value in (("2026-01-01T00:00:00Z", 0.99), ("2026-01-02T00:00:00Z", 0.4321)):
        evaluation = {
            "suites": {
                "robustness": {
                    "numbers": [
                        {**number, "value": value},
                        {**number, "condition": "silence", "value": None, "low": None, "why": "floor: it said nothing"},
                        {**number, "arm": "untrained", "condition": "elsewhere"},
                    ]
                }
            },
            "verdict": {
                "words": "It holds.",
                "criteria": [{"question": "Does it speak?", "holds": True, "why": "0.43 [0.10, 0.80]"}],
            },
            "provenance": {"command": "charforge eval pip@1.0.0"},
        }
        files = {"evaluation.json": json.dumps(evaluation), "evaluation.html": "<!doctype html>"}
        evaluated = made(store, "evaluated", {"character": entry.key, "at": finished}, {}, **files)
        path = evaluated.directory / "manifest.json"
        path.write_text(re.sub(r'"finished": "[^"]*"', f'"finished": "{finished}"', path.read_text()))
    sharing.export(store, entry, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| robustness | share of the voice, attacks | 0.43 [0.10, 0.80] |" in card, "the newest evaluation's"
    assert "silence | not measured: floor: it said nothing |" in card and "elsewhere |" not in card
    assert "| Does it speak? | yes |" in card and (tmp_path / "out" / "evaluation.html").is_file()


def test_an_adapter_speaks_the_same_without_charforge(make: Make, tmp_path: Path, tiny_model: Path) -> None:
    """Plain transformers and PEFT, the merged export, and charforge's own merged weights: the same greedy tokens."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    store, entry = make()
    out, merged = tmp_path / "out", tmp_path / "merged"
    sharing.export(store, entry, out)
    sharing.export(store, entry, merged, merge=True)
    tokenizer = AutoTokenizer.from_pretrained(out)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    before = speak(base, tokenizer)
    tuned = speak(PeftModel.from_pretrained(base, out), tokenizer)
    model = resolve(ModelReference(name=str(tiny_model), chat_template="chatml"))
    own = tmp_path / "own"
    merge_adapter(model, tiny_model, trained_folder(entry.folder), own)
    ours = speak(AutoModelForCausalLM.from_pretrained(own, dtype=torch.float32), tokenizer)
    theirs = speak(AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32), tokenizer)
    assert tuned == ours == theirs != before
    assert (merged / "model.safetensors").read_bytes() == (own / "model.safetensors").read_bytes()
    assert not (merged / "adapter_config.json").exists()
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(merged).chat_template
    for name, text in texts(merged).items():
        assert str(tmp_path) not in text and str(tiny_model.parent) not in text, name


@pytest.mark.parametrize("merge", [False, True])
def test_the_code_of_the_card_runs(make: Make, tmp_path: Path, tiny_model: Path, merge: bool) -> None:
    store, entry = make()
    sharing.export(store, entry, tmp_path / "out", merge=merge)
    assert run_card(tmp_path / "out", tiny_model).strip()
    assert ("PeftModel" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")) is not merge


def test_a_folder_with_something_in_it_is_left_alone(make: Make, tmp_path: Path) -> None:
    make()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    done = run_cli("export", "pip", "out", "--store", "store", cwd=tmp_path)
    assert done.returncode == 2 and "there is something already" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert run_cli("export", "pip", "empty", "--store", "store", cwd=tmp_path).returncode == 0


def test_a_folder_that_can_not_be_renamed_over_is_said_to_be_one(make: Make, tmp_path: Path) -> None:
    make()
    inside, link = tmp_path / "inside", tmp_path / "link"
    inside.mkdir()
    done = run_cli("export", "pip", ".", "--store", "../store", cwd=inside)
    assert done.returncode == 2 and "the folder you are in" in done.stderr and not list(inside.iterdir())
    done = run_cli("export", "pip", "n" * 255, "--store", "store", cwd=tmp_path)
    assert done.returncode == 2 and "File name too long" in done.stderr
    done = run_cli("export", "pip", "/proc/nowhere/out", "--store", "store", cwd=tmp_path)
    assert done.returncode == 2 and "can not be written" in done.stderr
    # A link leads to the folder that is meant, there or not.
    link.symlink_to("inside")
    assert run_cli("export", "pip", "link", "--store", "store", cwd=tmp_path).returncode == 0
    assert link.is_symlink() and (inside / "charforge.json").is_file()


def test_a_base_model_with_a_strange_name(make: Make, tmp_path: Path, tiny_model: Path) -> None:
    """Its name stands in YAML, JSON, Python, a shell command and a table."""
    name = 'it\'s a "model": [v2] | no & `x`'
    shutil.copytree(tiny_model, tmp_path / name)
    store, entry = make(model=str(tmp_path / name))
    sharing.export(store, entry, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert metadata(tmp_path / "out")["library_name"] == "peft"
    command = re.search(r"^vllm serve .*?\n.*?$", card, re.MULTILINE)
    assert command and shlex.split(command[0].replace("\\\n", ""))[2] == name
    assert run_card(tmp_path / "out", tmp_path / name).strip()


def test_a_damaged_evaluation_is_not_exported(make: Make, tmp_path: Path) -> None:
    store, entry = make()
    files = {"evaluation.json": '{"suites": {}, "verdict": null}', "evaluation.html": "<!doctype html>"}
    evaluated = made(store, "evaluated", {"character": entry.key}, {}, **files)
    (evaluated.directory / "evaluation.json").write_text('{"suites": {}, "verdict": true}', encoding="utf-8")
    with pytest.raises(UserError, match="changed after it was made"):
        sharing.export(store, entry, tmp_path / "out")


def test_a_damaged_character_is_not_exported(make: Make, tmp_path: Path) -> None:
    store, entry = make()
    (entry.folder / "bank.yaml").write_text("name: other\n", encoding="utf-8")
    with pytest.raises(UserError, match="changed after it was made"):
        sharing.export(store, entry, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_paths_and_secrets_stay_here(make: Make, tmp_path: Path) -> None:
    for said in (f"see {tmp_path}/notes.txt", f"all of it is in {tmp_path}"):
        make(warnings=[said])
        done = run_cli("export", "pip", "out", "--store", "store", cwd=tmp_path)
        assert done.returncode == 2 and "names a folder of this machine" in done.stderr, said
    make(warnings=[f"see {tmp_path}/notes.txt"])
    done = run_cli("export", "pip", "out", "--store", "store", cwd=tmp_path)
    assert done.returncode == 2 and "names a folder of this machine" in done.stderr and "report.json" in done.stderr
    assert not (tmp_path / "out").exists()
    assert run_cli("export", "pip", "out", "--store", "store", "--allow-paths", cwd=tmp_path).returncode == 0
    make(SMALL.replace("I am Pip.\n", "I am Pip. hf_abcdefghijkl\n", 1).replace("1.0.0", "1.1.0"))
    command = ["export", "pip@1.1.0", "leak", "--store", "store", "--allow-paths"]
    done = run_cli(*command, cwd=tmp_path, HF_TOKEN="hf_abcdefghijkl")
    assert done.returncode == 2 and "HF_TOKEN" in done.stderr and "hf_abc" not in done.stderr
    assert not (tmp_path / "leak").exists()


CONVERTER = """import json, os, pathlib, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--outfile") + 1])
pathlib.Path(os.environ["SEEN"]).write_text(json.dumps([sys.argv[1:], sorted(os.listdir(sys.argv[1]))]))
time.sleep(float(os.environ.get("SLOW", "0")))
if "FAIL" in os.environ:
    sys.exit("no such architecture")
out.write_bytes(b"GGUF")
"""


def test_gguf_is_llama_cpps_to_write(make: Make, tmp_path: Path) -> None:
    """The converter is a stub that records what it is asked: llama.cpp itself is not here."""
    make()
    (tmp_path / "convert_hf_to_gguf.py").write_text(CONVERTER, encoding="utf-8")
    done = run_cli("export", "pip", "out", "--gguf", "--store", "store", cwd=tmp_path)
    assert done.returncode == 2 and "convert_hf_to_gguf.py" in done.stderr and not (tmp_path / "out").exists()
    setting = {"CHARFORGE_GGUF_CONVERTER": "convert_hf_to_gguf.py", "SEEN": str(tmp_path / "seen")}
    done = run_cli("export", "pip", "out", "--gguf", "--store", "store", cwd=tmp_path, **setting, FAIL="1")
    assert done.returncode == 1 and "no such architecture" in done.stderr and not (tmp_path / "out").exists()
    done = run_cli("export", "pip", "out", "--gguf", "--store", "store", cwd=tmp_path, **setting)
    assert done.returncode == 0, done.stderr
    (model, *options), there = json.loads((tmp_path / "seen").read_text())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(there), model
    assert options[0] == "--outfile" and options[2:] == ["--outtype", "bf16"]
    assert (tmp_path / "out" / "pip-1.0.0-bf16.gguf").read_bytes() == b"GGUF"
    listing = json.loads((tmp_path / "out" / "charforge.json").read_text(encoding="utf-8"))
    assert "pip-1.0.0-bf16.gguf" in listing["files"] and listing["weights"] == "adapter"
    assert run_cli("import", "out", "--store", "other", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("sign", [9, 15])
def test_a_killed_export_leaves_nothing_half_made(make: Make, tmp_path: Path, sign: int) -> None:
    make()
    (tmp_path / "slow.py").write_text(CONVERTER, encoding="utf-8")
    command = ["export", "pip", "out", "--store", "store", "--gguf", "--gguf-converter", "slow.py"]
    seen = tmp_path / "seen"
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "charforge"), *command],
        cwd=tmp_path,
        env={**os.environ, "SEEN": str(seen), "SLOW": "60"},
        start_new_session=True,
    )
    kill_when(process, seen.exists, sign=sign)  # type: ignore[arg-type]
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")]
    assert not (tmp_path / "out").exists() and len(left) == (1 if sign == 9 else 0)
    done = run_cli(*command, cwd=tmp_path, SEEN=str(seen))
    assert done.returncode == 0, done.stderr
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")], "what was left is gone"
    assert (tmp_path / "out" / "charforge.json").is_file()


# --- import -----------------------------------------------------------------------------------------------------------


def test_what_is_imported_is_what_was_exported(make: Make, tmp_path: Path, tiny_model: Path) -> None:
    make()
    store, entry = make(SMALL.replace("1.0.0", "1.1.0"))
    assert entry.parent is not None
    sharing.export(store, entry, tmp_path / "out")
    (tmp_path / "out" / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    done = run_cli("import", "out", "--store", "other", cwd=tmp_path)
    assert done.returncode == 0 and entry.id in done.stdout and "--model FOLDER" in done.stderr
    other = Store(tmp_path / "other")
    (found,) = registry.entries(other)
    assert (found.id, found.key, found.parent, found.made) == (entry.id, entry.key, entry.parent, entry.made)
    assert found.adapter == entry.adapter
    for name in ("constitution.md", "bank.yaml", "recipe.json", "report.json", "adapter/tokenizer.json"):
        assert (found.folder / name).read_bytes() == (entry.folder / name).read_bytes()
    assert "pip@1.1.0" in run_cli("list", "--store", "other", cwd=tmp_path).stdout
    assert run_cli("show", "pip", "--store", "other", cwd=tmp_path).returncode == 0
    done = run_cli("verify", "pip", "--store", "other", cwd=tmp_path)
    assert done.returncode == 0 and "was imported" in done.stdout and "not checked: judge" in done.stdout
    # The judges' calibration is not there either: an evaluation hears no judge, rather than failing for want of it.
    assert characters.recall(found).calibration is None and characters.recall(entry).calibration
    assert not characters.recall(found).recipe.model.trust_remote_code
    # Damage is still found, and is called damage.
    (found.folder / "bank.yaml").write_text("name: other\n", encoding="utf-8")
    done = run_cli("verify", "pip", "--store", "other", cwd=tmp_path)
    assert done.returncode == 1 and "changed after it was made" in done.stdout


def test_the_base_model_of_an_import_must_be_the_right_one(make: Make, tmp_path: Path, tiny_model: Path) -> None:
    store, entry = make()
    sharing.export(store, entry, tmp_path / "out")
    wrong = tmp_path / "wrong"
    shutil.copytree(tiny_model, wrong)
    (wrong / "config.json").write_text((wrong / "config.json").read_text() + "\n")
    other = Store(tmp_path / "other")
    with pytest.raises(UserError, match="not the base model"):
        sharing.bring_in(other, tmp_path / "out", model=wrong)
    assert registry.entries(other) == []
    first = sharing.bring_in(other, tmp_path / "out")
    assert first.missing_base == tiny_model.name and not first.known
    again = sharing.bring_in(other, tmp_path / "out", model=tiny_model)
    assert again.known and again.missing_base is None and again.entry == first.entry
    recipe = characters.recall(again.entry).recipe
    assert resolve(recipe.model).identity == entry.manifest["identity"]["model"]
    # From here it goes on: what was imported is exported again, and says where it came from by no path.
    sharing.export(other, again.entry, tmp_path / "further")
    same = [tmp_path / name / "adapter_model.safetensors" for name in ("out", "further")]
    assert same[0].read_bytes() == same[1].read_bytes()
    assert characters.elsewhere(other, again.entry) == ["judge"]


def test_a_merged_export_is_imported_as_a_whole_model(make: Make, tmp_path: Path, tiny_model: Path) -> None:
    store, entry = make()
    sharing.export(store, entry, tmp_path / "out", merge=True)
    other = Store(tmp_path / "other")
    found = sharing.bring_in(other, tmp_path / "out", model=tiny_model).entry
    folder = trained_folder(found.folder)
    assert folder.name == "model" and found.key == entry.key
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "out" / "model.safetensors").read_bytes()
    assert characters.verify(other, found) == []
    character = characters.recall(found)
    assert sharing.served_folders(other, character, found, "cuda") == (folder, None)
    sharing.export(other, found, tmp_path / "again")
    assert metadata(tmp_path / "again")["library_name"] == "transformers"


def relist(out: Path, **changes: Any) -> None:
    """Change charforge.json, and make its digests those of what is there: a forger's work."""
    path = out / "charforge.json"
    data = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.unlink()
    data["files"] = {**sharing._digests(out), **changes.get("files", {})}
    path.write_text(json.dumps(data), encoding="utf-8")


def flip(out: Path) -> None:
    data = bytearray((out / "adapter_model.safetensors").read_bytes())
    data[-1] ^= 1
    (out / "adapter_model.safetensors").write_bytes(bytes(data))


def forge_weights(out: Path) -> None:
    flip(out)
    relist(out)


def forge_key(out: Path) -> None:
    path = out / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"seed": 0', '"seed": 9'), encoding="utf-8")
    relist(out)


def forge_constitution(out: Path) -> None:
    path = out / "constitution.md"
    path.write_text(path.read_text(encoding="utf-8").replace("Pip", "Pup"), encoding="utf-8")
    relist(out)


def forge_manifest(*names: str, value: Any) -> Callable[[Path], None]:
    """Put something into the manifest, and make its key the hash of what it says then."""

    def call(out: Path) -> None:
        data = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        place = data
        for name in names[:-1]:
            place = place[name]
        place[names[-1]] = value
        version = data["about"]["stage_version"]
        preimage = {"stage": data["stage"], "version": version, "identity": data["identity"], "inputs": data["inputs"]}
        data["key"] = digest(preimage)
        (out / "manifest.json").write_text(json.dumps(data), encoding="utf-8")
        relist(out, key=data["key"])

    return call


def forge_file(name: str, text: str) -> Callable[[Path], None]:
    """Change a file, and make the manifest agree."""

    def call(out: Path) -> None:
        (out / name).write_text(text, encoding="utf-8")
        about = {"bytes": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
        forge_manifest("files", name, value=about)(out)

    return call


def lose_weights(out: Path) -> None:
    (out / "adapter_model.safetensors").unlink()
    relist(out, merged=True)


def nest(out: Path) -> None:
    (out / "charforge.json").write_text("[" * 200_000)


def escape(out: Path) -> None:
    relist(out, files={"../outside.md": {"bytes": 0, "sha256": ""}})


def smuggle(out: Path) -> None:
    (out / "pytorch_model.bin").write_bytes(b"\x80")
    relist(out)


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (flip, "adapter_model.safetensors: the file was changed"),
        (lambda out: (out / "bank.yaml").unlink(), "bank.yaml: the file is missing"),
        (lambda out: (out / "extra.txt").write_text("x"), "extra.txt: the file was added"),
        (lambda out: (out / "charforge.json").unlink(), "no exported character"),
        (lambda out: (out / "charforge.json").write_text("[]"), "another version"),
        (smuggle, "a pickle can run code"),
        (escape, "the list of files is not one"),
        (forge_weights, "not the one that the character's manifest names"),
        (forge_key, "its key is not the hash of it"),
        (forge_constitution, "not the one that the character's manifest names"),
        (lose_weights, "it lists no weights"),
        (nest, "charforge.json: can not be read"),
        (lambda out: relist(out, parent="\x1b[31m"), "no name of a build"),
        # What agrees with itself, and would stop every command that reads the store.
        (forge_manifest("inputs", value=[]), "inputs: Input should be a valid dictionary"),
        (forge_manifest("inputs", value={"judge": {}}), "inputs.judge"),
        (forge_manifest("about", "environment", value=[]), "about.environment"),
        (forge_manifest("about", "finished", value="9999"), "about.finished"),
        (forge_manifest("identity", "model", "weights", value="x"), "identity.model.weights"),
        (forge_manifest("identity", "model", "weights", value={"hub": "a\n```"}), "identity.model.weights.hub"),
        (forge_manifest("identity", "recipe", "seed", value=9), "its recipe is not the one that its manifest names"),
        (forge_manifest("identity", "recipe", "model", "name", value=9), "its recipe is not the one"),
        (forge_file("recipe.json", "[]"), "its recipe is not one"),
        (forge_file("recipe.json", '{"scenarios": []}'), "its recipe is not one"),
        (forge_file("report.json", "{}"), "the report is not one"),
    ],
)
def test_a_tampered_folder_is_not_imported(
    make: Make, tmp_path: Path, tamper: Callable[[Path], Any], said: str
) -> None:
    store, entry = make()
    sharing.export(store, entry, tmp_path / "out")
    tamper(tmp_path / "out")
    other = Store(tmp_path / "other")
    with pytest.raises(UserError) as error:
        sharing.bring_in(other, tmp_path / "out")
    assert said in str(error.value) and error.value.exit_code == 2
    assert registry.entries(other) == [] and not list(other.root.glob("artifacts/character/*"))


def test_an_import_that_is_killed_is_whole_or_absent(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    store, entry = make()
    sharing.export(store, entry, tmp_path / "out")
    for number in range(99):
        other = Store(tmp_path / f"other{number}")
        other.prepare()
        bring = partial(sharing.bring_in, other, tmp_path / "out", model=tiny_model)
        stopped = killed_at(number, monkeypatch, bring)
        whole, damaged = registry.registered(other)
        assert damaged == [] and all(characters.verify(other, found) == [] for found in whole)
        found = bring()
        assert registry.registered(other) == ([found.entry], []) and found.missing_base is None
        assert characters.verify(other, found.entry) == [] and registry.find(other, "pip@1.0.0") == found.entry
        assert {item.what for item in registry.garbage(other)} <= {"unfinished character"}
        if not stopped:
            break
    assert 15 < number < 98


def test_two_imports_at_once(make: Make, tmp_path: Path) -> None:
    store, entry = make()
    sharing.export(store, entry, tmp_path / "out")
    with ThreadPoolExecutor(4) as pool:
        command = ("import", "out", "--store", "other")
        done = list(pool.map(lambda _: run_cli(*command, cwd=tmp_path), range(4)))
    assert [d.returncode for d in done] == [0] * 4, [d.stderr for d in done]
    assert sorted("is here now" in d.stdout for d in done) == [False, False, False, True]
    other = Store(tmp_path / "other")
    assert characters.verify(other, registry.find(other, "pip")) == []


def test_an_import_does_not_pass_for_what_is_there(make: Make, tmp_path: Path) -> None:
    """Equal keys say that the same was asked for; what came of it may differ, or be damaged."""
    store, entry = make()
    sharing.export(store, entry, tmp_path / "out")
    other = Store(tmp_path / "other")
    here = sharing.bring_in(other, tmp_path / "out").entry
    weights = here.folder / "adapter" / "adapter_model.safetensors"
    before = weights.read_bytes()
    flip(here.folder / "adapter")
    with pytest.raises(UserError, match="damaged there") as error:
        sharing.bring_in(other, tmp_path / "out")
    assert f"charforge rm {here.id}" in str(error.value)
    weights.write_bytes(before)
    # The same key from a machine on which the weights came out otherwise.
    flip(tmp_path / "out")
    data = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    about = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    forge_manifest("files", "adapter/adapter_model.safetensors", value=about)(tmp_path / "out")
    with pytest.raises(UserError, match="with other weights"):
        sharing.bring_in(other, tmp_path / "out")
    assert weights.read_bytes() == before and sharing.bring_in(Store(tmp_path / "third"), tmp_path / "out")


def test_an_older_import_takes_no_name_away(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, old = make()
    sharing.export(store, old, tmp_path / "out")
    registry.remove(store, old)
    monkeypatch.setattr(time, "gmtime", lambda: time.struct_time((2100, 1, 1, 0, 0, 0, 0, 1, 0)))
    _, new = make(text=SMALL.replace("It keeps the talk going.", "It opens doors."))
    found = sharing.bring_in(store, tmp_path / "out").entry
    assert found.key == old.key and found.reference == new.reference
    assert registry.find(store, "pip@1.0.0").id == registry.find(store, "pip").id == new.id


def test_what_one_import_was_told_the_next_one_keeps(make: Make, tmp_path: Path, tiny_model: Path) -> None:
    store, entry = make()
    sharing.export(store, entry, tmp_path / "out")
    other = Store(tmp_path / "other")
    sharing.bring_in(other, tmp_path / "out", model=tiny_model)
    found = sharing.bring_in(other, tmp_path / "out", trust_remote_code=True)
    assert found.missing_base is None and characters.recall(found.entry).recipe.model.trust_remote_code
    sharing.bring_in(other, tmp_path / "out", model=tiny_model)
    assert characters.recall(found.entry).recipe.model.trust_remote_code


def test_every_damage_is_named_at_once(make: Make, tmp_path: Path) -> None:
    store, entry = make()
    sharing.export(store, entry, tmp_path / "out")
    flip(tmp_path / "out")
    (tmp_path / "out" / "bank.yaml").unlink()
    done = run_cli("import", "out", "--store", "other", cwd=tmp_path)
    assert done.returncode == 2 and "nothing was imported" in done.stderr and "Traceback" not in done.stderr
    assert "bank.yaml: the file is missing" in done.stderr and "adapter_model.safetensors" in done.stderr
    assert not (tmp_path / "other").exists()


# --- a server ---------------------------------------------------------------------------------------------------------


def test_the_servers_command(make: Make, tmp_path: Path, tiny_model: Path) -> None:
    store, entry = make()
    character = characters.recall(entry)
    model, none = sharing.served_folders(store, character, entry, "cpu")
    assert none is None and (model / "model.safetensors").is_file()
    command = sharing.serve_command("pip@1.0.0", model, None, Vllm(), device="cpu", host="127.0.0.1", port=8123)
    assert command[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
    options = dict(pairwise(command))
    assert options["--model"] == str(model) and options["--served-model-name"] == "pip@1.0.0"
    assert options["--host"] == "127.0.0.1" and options["--port"] == "8123" and options["--max-model-len"] == "2048"
    assert "--enforce-eager" in command and "--enable-lora" not in command
    assert Path(options["--chat-template"]).read_text() == (entry.folder / "adapter/chat_template.jinja").read_text()

    base, adapter = sharing.served_folders(store, character, entry, "cuda")
    assert base == tiny_model and adapter == trained_folder(entry.folder)
    command = sharing.serve_command(
        "pip@1.0.0", base, adapter, Vllm(memory=0.5), device="cuda", host="::1", port=8000, trust_remote_code=True
    )
    options = dict(pairwise(command))
    assert json.loads(options["--lora-modules"]) == {"name": "pip@1.0.0", "path": str(adapter)}
    assert options["--served-model-name"] == "base" and options["--max-lora-rank"] == "8"
    assert options["--gpu-memory-utilization"] == "0.5" and "--enforce-eager" not in command
    assert command[-1] == "--trust-remote-code" and "--enable-lora" in command


def test_a_server_for_others_needs_a_key() -> None:
    def ask(host: str, key_env: str | None, **environment: str) -> dict[str, str]:
        return sharing.serve_environment(environment, device="cpu", host=host, key_env=key_env, settings=Vllm())

    for host in ("127.0.0.1", "localhost", "::1"):
        assert "VLLM_API_KEY" not in ask(host, None)
    with pytest.raises(UserError, match="whoever reaches"):
        ask("0.0.0.0", None)
    with pytest.raises(UserError, match="MY_KEY holds no key"):
        ask("0.0.0.0", "MY_KEY", MY_KEY=" ")
    assert ask("0.0.0.0", "MY_KEY", MY_KEY="secret")["VLLM_API_KEY"] == "secret"
    shown = sharing.curl("pip@1.0.0", "0.0.0.0", 8000, "MY_KEY")
    assert "http://127.0.0.1:8000/v1/chat/completions" in shown and "Bearer $MY_KEY" in shown
    assert '"model": "pip@1.0.0"' in shown and "Authorization" not in sharing.curl("pip@1.0.0", "::1", 1, None)


def test_serve_becomes_the_server(make: Make, tmp_path: Path) -> None:
    """In place of vLLM stands a module that writes down how it was started."""
    make()
    stub = tmp_path / "stub" / "vllm" / "entrypoints" / "openai"
    stub.mkdir(parents=True)
    for folder in (stub, stub.parent, stub.parent.parent):
        (folder / "__init__.py").touch()
    (stub / "api_server.py").write_text(
        "import json, os, sys\njson.dump([sys.argv, os.environ.get('VLLM_API_KEY')], open('started.json', 'w'))\n"
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        environment = {"PYTHONPATH": str(tmp_path / "stub"), "CUDA_VISIBLE_DEVICES": "", "MY_KEY": "sesame-open"}
        command = ["serve", "pip", "--store", "store", "--port", port, "--api-key-env", "MY_KEY"]
        done = run_cli(*command, cwd=tmp_path, **environment)
        assert done.returncode == 2 and "choose another --port" in done.stderr
    done = run_cli(*command, cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert f"curl http://127.0.0.1:{port}/v1/chat/completions" in done.stdout and "pip@1.0.0" in done.stdout
    arguments, key = json.loads((tmp_path / "started.json").read_text())
    assert key == "sesame-open" and "sesame-open" not in " ".join(arguments) + done.stdout
    assert arguments[arguments.index("--served-model-name") + 1] == "pip@1.0.0"
    assert run_cli("serve", "pip", "--store", "store", "--host", "0.0.0.0", cwd=tmp_path).returncode == 2


@pytest.mark.slow
@pytest.mark.xdist_group("real")
def test_a_character_is_served(make: Make, tmp_path: Path) -> None:
    """The real vLLM on loopback, under the character's name."""
    builtin = ModelReference(name="builtin:smollm2-135m-instruct", chat_template="chatml")
    lora(builtin, tmp_path / "weights")
    make(model=builtin.name, weights=tmp_path / "weights")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "charforge"), "serve", "pip", "--store", "store", "--port", str(port)]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while True:
            assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "server.log").read_text()[-3000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                break
            time.sleep(0.5)
        body = json.dumps({"model": "pip@1.0.0", "messages": HELLO, "max_tokens": 8}).encode()
        headers = {"Content-Type": "application/json"}
        address = f"http://127.0.0.1:{port}/v1/chat/completions"
        with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=120) as answer:
            said = json.loads(answer.read())
        assert said["model"] == "pip@1.0.0" and said["choices"][0]["message"]["content"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, 9)
        server.wait()


# --- the hub ----------------------------------------------------------------------------------------------------------


@dataclass
class Hub:
    """What the stand-in holds: repositories with their commits, and large files by their sha256."""

    repositories: dict[str, list[dict[str, bytes]]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    large: dict[str, bytes] = field(default_factory=dict)
    address: str = ""

    def commit(self, name: str, number: int = -1) -> str:
        count = len(self.repositories[name])
        return hashlib.sha1(f"{name} {count + number if number < 0 else number}".encode()).hexdigest()

    def files(self, name: str, revision: str) -> dict[str, bytes] | None:
        commits = self.repositories[name]
        known = {"main": commits[-1], **{self.commit(name, n): files for n, files in enumerate(commits)}}
        return known.get(revision)


class Answers(BaseHTTPRequestHandler):
    """The endpoints that huggingface_hub calls to create a repository, upload a folder, list it and download from it."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        path, hub = unquote(urlsplit(self.path).path), self.hub
        raw = self.rfile.read(int(self.headers["content-length"]))
        name = "/".join(path.removeprefix("/api/models").split("/")[1:3]).removesuffix(".git")
        if path == "/api/validate-yaml":
            front = yaml.safe_load(json.loads(raw)["content"].split("---\n")[1])
            return self.say(200 if front["license"] else 400, {"warnings": [], "errors": []})
        if self.headers.get("authorization") != "Bearer hf_right":
            return self.say(401, {"error": "Invalid credentials in Authorization header"})
        if path == "/api/repos/create":
            asked = json.loads(raw)
            name = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] == "closed":
                return self.say(403, {"error": "you do not have the right"})
            if name in hub.repositories:
                return self.say(409, {"url": f"{hub.address}/{name}"})
            hub.repositories[name] = [{".gitattributes": b"*.safetensors filter=lfs\n"}]
            hub.private |= {name} if asked.get("visibility") == "private" else set()
            return self.say(200, {"url": f"{hub.address}/{name}"})
        if "/preupload/" in path:
            files = json.loads(raw)["files"]
            modes = {f["path"]: "lfs" if f["path"].endswith(".safetensors") else "regular" for f in files}
            told = [{"path": p, "uploadMode": mode, "shouldIgnore": False, "oid": None} for p, mode in modes.items()]
            return self.say(200, {"files": told})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{hub.address}/large/{o['oid']}"}}}
                for o in json.loads(raw)["objects"]
            ]
            return self.say(200, {"transfer": "basic", "objects": objects})
        lines = [json.loads(line) for line in raw.splitlines()]
        files = dict(hub.repositories[name][-1])
        for line in lines:
            value = line["value"]
            if line["key"] == "deletedFile":
                del files[value["path"]]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.large[value["oid"]]
        hub.repositories[name].append(files)
        commit = hub.commit(name)
        return self.say(200, {"commitUrl": f"{hub.address}/{name}/commit/{commit}", "commitOid": commit})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.hub.large[hashlib.sha256(body).hexdigest()] = body
        self.say(200, {})

    def do_GET(self) -> None:
        path, hub = unquote(urlsplit(self.path).path), self.hub
        api = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models").split("/")
        name, verb = "/".join(parts[1:3]), parts[3] if len(parts) > 3 else ""
        hidden = name in hub.private and self.headers.get("authorization") != "Bearer hf_right"
        if name not in hub.repositories or hidden:
            return self.say(404, {"error": "Repository not found"}, code="RepoNotFound")
        revision = parts[4] if len(parts) > 4 else "main"
        files = hub.files(name, revision)
        if files is None:
            return self.say(404, {"error": "Invalid rev id"}, code="RevisionNotFound")
        if name == "some/gated" and not (api and verb != "tree"):
            return self.say(403, {"error": "gated"}, code="GatedRepo")
        commit = revision if revision != "main" else hub.commit(name)
        if api and verb == "tree":
            return self.say(200, [self.entry(path, data) for path, data in files.items()])
        if api:
            siblings = [{"rfilename": path} for path in files]
            private = name in hub.private
            return self.say(200, {"id": name, "sha": commit, "private": private, "siblings": siblings, "tags": []})
        wanted = "/".join(parts[5:])
        if wanted not in files:
            return self.say(404, {"error": "Entry not found"}, code="EntryNotFound")
        etag = hashlib.sha256(files[wanted]).hexdigest()
        return self.send(200, files[wanted], {"ETag": f'"{etag}"', "X-Repo-Commit": commit})

    do_HEAD = do_GET

    @staticmethod
    def entry(path: str, data: bytes) -> dict[str, Any]:
        about: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        if path.endswith(".safetensors"):
            about["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 100}
        return about

    def say(self, status: int, data: Any, code: str | None = None) -> None:
        headers = {"Content-Type": "application/json", **({"X-Error-Code": code} if code else {})}
        if status == 401:
            headers["X-Error-Message"] = data["error"]
        self.send(status, json.dumps(data).encode(), headers)

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on loopback, which child processes are told of. Xet, the hub's own storage protocol, is off: it has none."""
    found = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Answers,), {"hub": found}))
    found.address = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", found.address)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield found
    server.shutdown()


def test_push_and_pull(make: Make, tmp_path: Path, hub: Hub, tiny_model: Path) -> None:
    _, entry = make()
    done = run_cli("push", "pip", "me/pip", "--private", "--store", "store", cwd=tmp_path, HF_TOKEN="hf_right")
    assert done.returncode == 0, done.stderr
    assert f"{hub.address}/me/pip/commit/" in done.stdout and hub.private == {"me/pip"}
    there = hub.repositories["me/pip"][-1]
    weights = (entry.folder / "adapter" / "adapter_model.safetensors").read_bytes()
    assert there["adapter_model.safetensors"] == weights and list(hub.large.values()) == [weights]
    assert there["README.md"].startswith(b"---\nlicense") and "charforge.json" in there

    hidden = run_cli("pull", "me/pip", "--store", "other", cwd=tmp_path)
    assert hidden.returncode == 2 and "does not show it to you" in hidden.stderr
    pulled = run_cli("pull", "me/pip", "copy", "--store", "other", cwd=tmp_path, HF_TOKEN="hf_right")
    assert pulled.returncode == 0, pulled.stderr
    (found,) = registry.entries(Store(tmp_path / "other"))
    assert (found.id, found.key) == (entry.id, entry.key)
    first = hub.commit("me/pip")
    assert found.manifest["about"]["imported"]["from"] == f"me/pip@{first}"
    assert {path.name for path in (tmp_path / "copy").iterdir()} == set(there) - {".gitattributes"}
    assert not list((tmp_path / "other").glob(".pull-*")) and not list((tmp_path / "store").glob(".push-*"))

    # Another push replaces the first: what belongs to the old one alone is gone, and the old revision stays.
    done = run_cli("push", "pip", "me/pip", "--merge", "--store", "store", cwd=tmp_path, HF_TOKEN="hf_right")
    assert done.returncode == 0, done.stderr
    now = hub.repositories["me/pip"][-1]
    assert "model.safetensors" in now and "adapter_model.safetensors" not in now and ".gitattributes" in now
    for revision, store, folder in (("", "third", "model"), (f"@{first}", "fourth", "adapter")):
        done = run_cli("pull", f"me/pip{revision}", "--store", store, cwd=tmp_path, HF_TOKEN="hf_right")
        assert done.returncode == 0, done.stderr
        assert trained_folder(registry.find(Store(tmp_path / store), "pip").folder).name == folder


def test_what_the_hub_refuses_is_said_plainly(make: Make, tmp_path: Path, hub: Hub) -> None:
    make()
    hub.repositories |= {"some/plain": [{"config.json": b"{}"}], "some/gated": [{"charforge.json": b"{}"}]}
    hub.repositories["me/public"] = [{"README.md": b""}]
    for words, token, said in (
        (["push", "pip", "me/pip"], None, "only with an access token"),
        (["push", "pip", "me/pip"], "hf_wrong", "the hub refused the token"),
        (["push", "pip", "closed/pip"], "hf_right", "does not let you write to closed/pip"),
        (["push", "pip", "me/public", "--private"], "hf_right", "already and public; nothing was uploaded"),
        (["push", "pip", "pip"], "hf_right", "is no name of a repository"),
        (["pull", "me/nothing"], None, "the hub knows no me/nothing"),
        (["pull", "some/plain@v9"], None, "has no such revision"),
        (["pull", "some/plain"], None, "no character that charforge exported"),
        (["pull", "some/gated"], None, "is gated"),
    ):
        environment = {"HF_TOKEN": token} if token else {}
        done = run_cli(*words, "--store", "store", cwd=tmp_path, **environment)
        assert done.returncode == 2 and said in done.stderr, (words, done.stderr)
        assert "Traceback" not in done.stderr and "hf_right" not in done.stderr
    assert hub.repositories["me/public"] == [{"README.md": b""}] and "me/pip" not in hub.repositories
    done = run_cli("pull", "me/pip", "--store", "store", cwd=tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 2 and "can not be reached" in done.stderr


def test_a_character_that_was_changed_on_the_hub_is_not_pulled(make: Make, tmp_path: Path, hub: Hub) -> None:
    store, entry = make()
    sharing.export(store, entry, tmp_path / "out")
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    hub.repositories["me/pip"] = [{**files, "bank.yaml": b"name: other\n", "evil.bin": b"\x80"}]
    done = run_cli("pull", "me/pip", "--store", "other", cwd=tmp_path)
    assert done.returncode == 2 and "bank.yaml: the file was changed" in done.stderr
    assert "evil.bin" not in done.stderr, "what is not in the list is not even fetched"
    assert registry.entries(Store(tmp_path / "other")) == []


# --- a character that was trained --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workshop with a character. Not to be changed: tests work in a copy of it."""
    folder = tmp_path_factory.mktemp("trained") / "work"
    shutil.copytree(prepared, folder, symlinks=True)
    done = run_cli("train", "recipe.yaml", "--set", "sft.max_steps=2", "--set", "dpo.enabled=false", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.xdist_group("prepared")
def test_a_trained_character_goes_to_another_machine(trained: Path, tmp_path: Path, tiny_model: Path) -> None:
    """Export, import elsewhere, evaluate there; and the commands that make it again ask for the very same character."""
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(trained, here, symlinks=True)
    there.mkdir()
    done = run_cli("export", "pip", str(there / "out"), "--store", "store", cwd=here)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(here)
    for name, text in texts(there / "out").items():
        assert str(tiny_model) not in text and str(tmp_path) not in text, name
    assert run_card(there / "out", tiny_model) != "\n"
    done = run_cli("import", "out", "--store", "store", "--model", str(tiny_model), "--json", cwd=there)
    assert done.returncode == 0, done.stderr
    key = json.loads(done.stdout)["key"]
    asked = run_cli("eval", "pip", "--store", "store", "--suite", "robustness", "--limit", "2", "--json", cwd=there)
    assert asked.returncode == 0, asked.stderr
    numbers = json.loads(asked.stdout)["suites"]["robustness"]["numbers"]
    (held,) = [n for n in numbers if (n["name"], n["condition"], n["arm"], n["against"])
               == ("voice held", "plain", "trained", None)]  # fmt: skip
    assert held["value"] == 1.0
    assert run_cli("verify", "pip", "--store", "store", cwd=there).returncode == 0
    # With the evaluation it is exported again.
    assert run_cli("export", "pip", "further", "--store", "store", cwd=there).returncode == 0
    card = (there / "further" / "README.md").read_text(encoding="utf-8")
    assert "### Does the character hold?" in card and "no\ncharacter.**" in card, "and says that a rule wrote its data"
    block = re.search(r"## How to make it again\n\n```sh\n(.*?)```", card, re.DOTALL)
    assert block
    script = block[1].replace("FOLDER", str(tiny_model)).rstrip() + " --dry-run --json"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-ec", script], cwd=there / "further", capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"][-1]["key"] == key
