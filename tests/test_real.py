"""The whole walk on the real model with the real vLLM, TRL and PEFT; killed once while the engine is generating."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from charforge.store import read_rows
from tests.conftest import RECIPE, run_cli, write_workshop
from tests.test_pipeline import kill_when, lines, start

SETTINGS = RECIPE.replace("engine: scripted\n", "").replace(
    "judge: {{examples: 2, heldout_examples: 0.4, min_accuracy: 0.0, second: none}}",
    "judge: {{examples: 2, heldout_examples: 0.4, second: pairwise}}",
)


@pytest.mark.slow
@pytest.mark.xdist_group("real")
def test_from_constitution_to_report(tmp_path: Path) -> None:
    write_workshop(tmp_path, Path("unused"))
    recipe = SETTINGS.format(model="builtin:smollm2-135m-instruct")
    (tmp_path / "recipe.yaml").write_text(recipe.replace("max_steps: 8", "max_steps: 2"), encoding="utf-8")
    store = tmp_path / "store"
    kill_when(start(tmp_path), lambda: len(lines(store, "responses")) >= 2)
    kept = lines(store, "responses")

    done = run_cli("train", "recipe.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(kept) <= set(lines(store, "responses", "rows.jsonl"))
    report = json.loads(done.stdout)
    assert "interrupted" in done.stderr
    (judge, second) = report["judges"]
    assert judge["kind"] == "likelihood_ratio" and judge["believed"] and judge["accuracy"]["value"] >= 0.75
    assert second["kind"] == "pairwise"
    measures = report["measures"]
    assert set(measures["expression"]["likelihood_ratio"]["overall"]) == {"prompted", "sft", "sft+dpo"}
    for arm in ("untrained", "prompted", "sft", "sft+dpo"):
        assert measures["fluency"][arm]["log_probability"]["value"] < 0
    assert report["provenance"]["environment"]["packages"]["trl"]

    (rows,) = store.glob("artifacts/answers-sft+dpo/*/rows.jsonl")
    replies = read_rows(rows)
    assert all(row["text"] and row["tokens"] for row in replies)
    (manifest,) = store.glob("artifacts/answers-sft+dpo/*/manifest.json")
    engine = json.loads(manifest.read_text())["about"]["result"]["engine"]
    assert engine["engine"] in ("vllm", "vllm-cpu") and engine["lora"] in ("merged", "per request")

    # The adapter loads in plain transformers and PEFT, and speaks there without charforge.
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from charforge.models import fetch, resolve
    from charforge.recipe import ModelReference

    adapter = store / "characters/pip@1.0.0/latest/adapter"
    base = fetch(resolve(ModelReference(name="builtin:smollm2-135m-instruct")))
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert "SmolLM" not in tokenizer.decode(prompt["input_ids"][0])
    out = model.generate(**prompt, max_new_tokens=5, do_sample=False)
    assert out.shape[1] > prompt["input_ids"].shape[1]
