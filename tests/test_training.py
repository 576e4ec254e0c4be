"""Training: the real TRL, PEFT and DeepSpeed on a tiny model; rows counted, loss on the assistant, weights merged right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from charforge.models import load_model, merge_adapter, resolve
from charforge.recipe import ModelReference
from charforge.store import read_rows
from tests.conftest import Cli

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prepared")]


@pytest.fixture
def workshop(prepared: Path, tmp_path: Path) -> Path:
    """Data that is made already: what is tested here is the training."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return tmp_path


def result(workshop: Path, stage: str) -> tuple[Path, dict[str, Any]]:
    (manifest,) = (workshop / "store/artifacts" / stage).glob("*/manifest.json")
    data: dict[str, Any] = json.loads(manifest.read_text())
    return manifest.parent, data["about"]["result"]


@pytest.mark.parametrize("zero", ["2", "3"])
def test_deepspeed(cli: Cli, workshop: Path, zero: str) -> None:
    """Two real steps of SFT and of DPO with ZeRO on two CPU processes."""
    options = [f"runtime.launcher=deepspeed-zero{zero}", "runtime.processes=2", "sft.max_steps=2", "dpo.max_steps=2"]
    done = cli("train", "recipe.yaml", "--until", "dpo", *[x for o in options for x in ("--set", o)])
    assert done.returncode == 0, done.stderr
    for stage in ("sft", "dpo"):
        folder, about = result(workshop, stage)
        assert about["distributed"] == "DEEPSPEED" and about["zero_stage"] == int(zero)
        assert about["processes"] == 2 and about["steps"] == 2 and about["rows_kept"] == about["rows"]
        assert (folder / "adapter/adapter_model.safetensors").stat().st_size > 1000
        assert all(row["loss"] > 0 for row in read_rows(folder / "loss.jsonl"))
        assert not list(folder.rglob("*.pt")) and not (folder / "checkpoints").exists()
    dpo = read_rows(result(workshop, "dpo")[0] / "loss.jsonl")
    assert "rewards/margins" in dpo[0]
    moved(workshop)


def moved(workshop: Path) -> None:
    """DPO started from SFT's adapter and changed it: no weight is empty, and not all are the same."""
    from safetensors.torch import load_file

    before = load_file(result(workshop, "sft")[0] / "adapter/adapter_model.safetensors")
    after = load_file(result(workshop, "dpo")[0] / "adapter/adapter_model.safetensors")
    assert before.keys() == after.keys() and all(w.numel() for w in after.values())
    assert any((before[name] != after[name]).any() for name in before)
    assert any(w.abs().sum() > 0 for name, w in before.items() if "lora_B" in name)


def test_accelerate(cli: Cli, workshop: Path) -> None:
    options = ["runtime.launcher=accelerate", "runtime.processes=2", "sft.max_steps=2", "dpo.enabled=false"]
    done = cli("train", "recipe.yaml", "--until", "sft", *[x for o in options for x in ("--set", o)])
    assert done.returncode == 0, done.stderr
    _, about = result(workshop, "sft")
    assert about["processes"] == 2 and about["steps"] == 2 and about["distributed"] == "MULTI_CPU"


def test_full_fine_tuning(cli: Cli, workshop: Path) -> None:
    """All weights by option, carried from SFT to DPO, into the character."""
    options = ["method=full", "sft.max_steps=2", "dpo.max_steps=2", "runtime.report_to=[tensorboard]"]
    done = cli("train", "recipe.yaml", "--json", *[x for o in options for x in ("--set", o)])
    assert done.returncode == 0, done.stderr
    folder, about = result(workshop, "dpo")
    assert about["steps"] == 2 and (folder / "model/model.safetensors").is_file()
    assert list((result(workshop, "sft")[0] / "tracking").rglob("events.out.*")), "report_to must be honoured"
    report = json.loads(done.stdout)
    assert report["model"]["method"] == "full"
    assert [row["loss"] for row in report["training"]["sft"]["curve"]]


def test_loss_is_on_the_assistant_only(tiny_model: Path) -> None:
    """Through TRL as we set it up: every row has loss tokens, and they spell the reply and its end, nothing else."""
    from charforge.models import load_tokenizer
    from charforge.train import trainer as module

    model = resolve(ModelReference(name=str(tiny_model), chat_template="chatml"))
    rows: list[dict[str, Any]] = [
        {"prompt": [{"role": "user", "content": "What is rain?"}], "completion": "Water. Is it wet?"},
        {
            "prompt": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello?"},
                {"role": "user", "content": "Bye"},
            ],
            "completion": "So soon?",
        },
    ]
    folder = tiny_model.parent
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job: dict[str, Any] = {
        "stage": "sft",
        "directory": str(folder / "out"),
        "data": str(data),
        "model": ModelReference(name=str(tiny_model)).model_dump(mode="json"),
        "model_folder": str(tiny_model),
        "start_from": None,
        "method": "lora",
        "lora": {"r": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear"},
        "seed": 0,
        "settings": {
            "epochs": 1,
            "max_steps": 1,
            "batch_size": 2,
            "learning_rate": 1e-3,
            "warmup": 0.0,
            "scheduler": "constant",
            "max_length": 256,
            "max_dropped": 0.0,
            "save_steps": 1,
            "trainer_args": {},
        },
        "runtime": {"micro_batch": 2, "gradient_checkpointing": False, "report_to": [], "launcher": "single"},
    }
    import os

    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    tokenizer = load_tokenizer(model, tiny_model)
    dataset, counts = module._dataset(job, tokenizer)
    assert counts["rows_kept"] == 2
    trainer = module._trainer(job, module._arguments(job, folder / "out"), dataset, tokenizer)
    for index, row in enumerate(rows):
        batch = trainer.data_collator([trainer.train_dataset[index]])
        labels = batch["labels"][0]
        spoken = tokenizer.decode(batch["input_ids"][0][labels != -100])
        assert spoken.strip() == f"{row['completion']}<|im_end|>".strip()
        text = tokenizer.decode(batch["input_ids"][0])
        assert text.count("<|im_start|>assistant") == sum(m["role"] == "assistant" for m in row["prompt"]) + 1
    job["settings"]["max_length"] = 20
    with pytest.raises(module.BadJob, match="max_length"):
        module._dataset(job, tokenizer)


def test_merging_is_adding(tiny_model: Path, tmp_path: Path) -> None:
    """The merged weights are base + alpha/r * B A, to bfloat16 rounding."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file

    model = resolve(ModelReference(name=str(tiny_model), chat_template="chatml"))
    base = load_model(model, tiny_model, device="cpu", dtype="float32")
    before = base.model.layers[0].self_attn.q_proj.weight.detach().clone()
    torch.manual_seed(1)
    peft = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], init_lora_weights=False))
    layer = peft.base_model.model.model.layers[0].self_attn.q_proj
    expected = before + 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    peft.save_pretrained(tmp_path / "adapter")
    merge_adapter(model, tiny_model, tmp_path / "adapter", tmp_path / "merged")
    merged = load_file(tmp_path / "merged/model.safetensors")["model.layers.0.self_attn.q_proj.weight"].float()
    assert torch.allclose(merged, expected, rtol=1e-2, atol=1e-3)
    assert not torch.allclose(merged, before, rtol=1e-2, atol=1e-3)


def test_trainer_args_are_checked_before_anything_runs(cli: Cli, workshop: Path) -> None:
    done = cli("train", "recipe.yaml", "--set", "sft.trainer_args={weight_decay: 0.1, adam_beta3: 1, learning_rate: 1}")
    assert done.returncode == 2, done.stderr
    assert "adam_beta3" in done.stderr and "did you mean" in done.stderr and "learning_rate" in done.stderr
    assert not list((workshop / "store/artifacts").glob("sft/*"))


def test_a_failing_trainer_says_why(cli: Cli, workshop: Path) -> None:
    done = cli("train", "recipe.yaml", "--until", "sft", "--set", "sft.max_length=24")
    assert done.returncode == 1
    assert "raise sft.max_length" in done.stderr and "Traceback" not in done.stderr
    mended = cli("train", "recipe.yaml", "--until", "sft")
    assert mended.returncode == 0 and mended.stderr.count("reused") >= 8
