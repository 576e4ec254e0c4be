"""Planning and running: keys, reuse, broken and continued runs, editing one trait. The scripted engine, a real trainer."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from charforge import pipeline, shipped
from charforge.store import Store, read_rows
from tests.conftest import Cli, run_cli, write_workshop

GOLDEN = Path(__file__).parent / "golden_keys.json"


def plan_in(folder: Path) -> tuple[pipeline.Plan, Store]:
    return pipeline.load_plan(folder / "recipe.yaml"), Store(folder / "store")


def test_plan_is_pure_and_light() -> None:
    code = (
        "import sys; from charforge import pipeline, shipped;"
        "pipeline.load_plan(shipped.find('recipes', 'demo', '.yaml'));"
        "heavy = {'torch', 'transformers', 'vllm', 'trl', 'peft', 'datasets', 'matplotlib'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_golden_keys() -> None:
    """An accidental change of identity is a failing diff. To accept one: delete the file and run the test again."""
    plan = pipeline.load_plan(shipped.find("recipes", "demo", ".yaml"))
    keys = {stage.name: stage.key for stage in plan.stages}
    if not GOLDEN.exists() and not os.environ.get("CI"):
        GOLDEN.write_text(json.dumps(keys, indent=1) + "\n", encoding="utf-8")
    assert keys == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_generation_stages_share_one_engine() -> None:
    stages = pipeline.load_plan(shipped.find("recipes", "demo", ".yaml")).stages
    groups = [stage.process for i, stage in enumerate(stages) if i == 0 or stages[i - 1].process != stage.process]
    assert sum(process.startswith("engine:") for process in groups) == 3  # base, sft, sft+dpo


def test_heldout_prompts_are_not_trained_on(tiny_model: Path, tmp_path: Path) -> None:
    from charforge.data import scenarios

    plan = pipeline.load_plan(shipped.find("recipes", "demo", ".yaml"))
    rows = scenarios.authored(plan.constitution, plan.recipe)
    prompts = {split: {r["prompt"] for r in rows if r["split"] == split} for split in ("train", "heldout")}
    assert not prompts["train"] & prompts["heldout"]
    for trait in plan.constitution.traits:
        assert {r["split"] for r in rows if r["trait"] == trait.id and r["source"] == "constitution"} == {
            "train",
            "heldout",
        }
    # One more prompt in the bank moves no other.
    bank = Path(plan.recipe.scenarios.bank).read_text(encoding="utf-8")
    (tmp_path / "bank.yaml").write_text(
        bank.replace("  everyday:\n", '  everyday:\n    - "A new prompt about soup?"\n')
    )
    settings = plan.recipe.scenarios.model_copy(update={"bank": str(tmp_path / "bank.yaml"), "general": 999})
    wide = plan.recipe.model_copy(update={"scenarios": settings})
    split = {r["prompt"]: (r["split"], r["trait"]) for r in scenarios.authored(plan.constitution, wide)}
    assert all(split[r["prompt"]] == (r["split"], r["trait"]) for r in rows if r["prompt"] in split)


@pytest.fixture(scope="module")
def finished(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """An unbroken run in a workshop that is not to be changed, and what the command said."""
    folder = tmp_path_factory.mktemp("finished")
    write_workshop(folder, tiny_model)
    done = run_cli("train", "recipe.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.slow
@pytest.mark.xdist_group("finished")
def test_one_run(finished: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """From the constitution to the report, through the installed command; then everything is reused."""
    original, first = finished
    workshop = tmp_path / "workshop"
    shutil.copytree(original, workshop, symlinks=True)

    def cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return run_cli(*arguments, cwd=workshop, **environment)

    report = json.loads(first.stdout)
    assert report["character"]["reference"] == "pip@1.0.0"
    assert [arm["id"] for arm in report["arms"]] == ["untrained", "prompted", "sft", "sft+dpo"]
    assert any("scripted" in warning for warning in report["warnings"])
    folder = workshop / "store/characters/pip@1.0.0/latest"
    assert (folder / "report.html").read_text().startswith("<!doctype html>".upper()) or "<html" in (
        folder / "report.html"
    ).read_text()
    assert not list((workshop / "store").rglob("*.bin")) and not list((workshop / "store").rglob("*.pt"))
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()

    plan, store = plan_in(workshop)
    for stage in plan.stages:
        store.artifact(stage.name, stage.key).verify()
    # Every training row ends with the assistant and is about a training prompt.
    scenario_rows = read_rows(store.artifact("scenarios", plan.stage("scenarios").key).directory / "rows.jsonl")
    heldout = {row["prompt"] for row in scenario_rows if row["split"] == "heldout"}
    preferences = store.artifact("preferences", plan.stage("preferences").key).directory
    for row in read_rows(preferences / "sft.jsonl"):
        assert row["trait"] and row["completion"] and row["prompt"][-1]["role"] == "user"
        assert row["prompt"][-1]["content"] not in heldout
    card = json.loads((preferences / "card.json").read_text())
    assert card["sft"]["rows"] and card["pairs"]["rows"] and "dropped" in card

    begin = time.monotonic()
    again = cli("train", "recipe.yaml")
    assert again.returncode == 0 and time.monotonic() - begin < 5
    assert again.stderr.count("reused") == len(plan.stages)
    assert "report.html" in again.stdout and "untrained" in again.stdout
    dry = cli("train", "recipe.yaml", "--dry-run")
    assert "every stage is reused" in dry.stdout

    _check_report_says_how_to_make_it_again(folder, tmp_path, plan)
    _check_editing_one_trait(cli, workshop, plan, store)
    _check_force_and_until(cli, workshop, plan)
    _check_corruption(cli, plan, store)


def _check_report_says_how_to_make_it_again(folder: Path, home: Path, plan: pipeline.Plan) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    found = re.search(r"<h3>How to reproduce</h3>.*?<pre>(.*?)</pre>", page, re.DOTALL)
    assert found
    script = html.unescape(found[1]).replace("FOLDER", plan.recipe.model.name) + " --dry-run --json"
    environment = {**os.environ, "HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"][-1]["key"] == plan.stages[-1].key, "the very same character"


def _check_editing_one_trait(cli: Cli, workshop: Path, before: pipeline.Plan, store: Store) -> None:
    text = (workshop / "pip.md").read_text()
    (workshop / "pip.md").write_text(text.replace("It keeps the talk going.", "Talk is better when it goes on."))
    dry = cli("train", "recipe.yaml", "--dry-run", "--json")
    steps = {step["stage"]: step for step in json.loads(dry.stdout)["steps"]}
    assert steps["scenarios"]["action"] == "reused"
    assert steps["responses"]["action"] == "run" and "traits.asks-back" in steps["responses"]["why"]
    assert "forges-nothing" not in steps["responses"]["why"]
    done = cli("train", "recipe.yaml", "--until", "revisions")
    assert done.returncode == 0, done.stderr
    after, _ = plan_in(workshop)
    for name in ("responses", "critiques", "revisions"):
        old = store.artifact(name, before.stage(name).key).directory / "rows.jsonl"
        new = store.artifact(name, after.stage(name).key).directory / "rows.jsonl"
        kept = set(old.read_text().splitlines()) & set(new.read_text().splitlines())
        for row in read_rows(new):
            line = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
            assert (line in kept) == (row["trait"] == "forges-nothing"), (name, row["trait"])
        manifest = json.loads((new.parent / "manifest.json").read_text())
        others = sum(row["trait"] == "forges-nothing" for row in read_rows(new))
        assert manifest["about"]["result"]["copied"] == others
    (workshop / "pip.md").write_text(text)


def _check_force_and_until(cli: Cli, workshop: Path, plan: pipeline.Plan) -> None:
    forced = cli("train", "recipe.yaml", "--force", "plain", "--until", "answers-untrained")
    assert forced.returncode == 0 and "plain" in forced.stderr and "--force" in forced.stderr
    # The forced stage made the same content, so what follows is reused.
    assert json.loads(cli("train", "recipe.yaml", "--dry-run", "--json").stdout)["steps"][-1]["action"] == "reused"
    wrong = cli("train", "recipe.yaml", "--until", "preferencs")
    assert wrong.returncode == 2 and "did you mean 'preferences'?" in wrong.stderr


def _check_corruption(cli: Cli, plan: pipeline.Plan, store: Store) -> None:
    path = store.artifact("plain", plan.stage("plain").key).directory / "rows.jsonl"
    path.write_text(path.read_text().replace("important", "unimportant", 1))
    broken = cli("train", "recipe.yaml")
    assert broken.returncode == 2 and "corrupt artifact of stage 'plain'" in broken.stderr
    assert path.parent.name in broken.stderr and "--force plain" in broken.stderr and "Traceback" not in broken.stderr
    mended = cli("train", "recipe.yaml", "--force", "plain")
    assert mended.returncode == 0, mended.stderr


# --- broken and continued -------------------------------------------------------------------------------------------


def start(folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "charforge"), "train", "recipe.yaml"],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill_when(process: subprocess.Popen[bytes], ready: Any, *, sign: int = signal.SIGKILL) -> None:
    """Kill the whole tree as soon as `ready()` holds; it must hold before the run is over."""
    import psutil

    deadline = time.monotonic() + 240
    while not ready():
        assert process.poll() is None, "the run was over before it could be killed"
        assert time.monotonic() < deadline, "the moment to kill never came"
        time.sleep(0.005)
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in tree:
        try:
            member.send_signal(sign)
        except psutil.NoSuchProcess:
            continue
    process.wait(60)
    psutil.wait_procs(tree, timeout=30)


def lines(store: Path, stage: str, name: str = "journal.jsonl") -> list[bytes]:
    found = [line for path in store.glob(f"artifacts/{stage}/*/{name}") for line in path.read_bytes().splitlines(True)]
    return [line for line in found if line.endswith(b"\n")]


@pytest.mark.slow
@pytest.mark.xdist_group("finished")
def test_a_file_in_the_working_folder_is_no_module(workshop: Path, cli: Cli) -> None:
    """`python -m` looks for modules in the working folder first: what a user keeps there is not ours to run."""
    for name in ("yaml.py", "charforge.py", "random.py"):
        (workshop / name).write_text("raise SystemExit('this file was run')\n")
    done = cli("train", "recipe.yaml", "--until", "responses")
    assert done.returncode == 0, done.stderr


def test_killed_everywhere_equals_unbroken(
    tmp_path: Path, tiny_model: Path, finished: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    """kill -9 of the whole tree during generation, scoring, SFT and DPO; the report is that of an unbroken run."""
    broken = tmp_path / "broken"
    broken.mkdir()
    write_workshop(broken, tiny_model)
    whole, unbroken = finished
    store = broken / "store"
    slow = {"CHARFORGE_SCRIPTED_DELAY": "0.05"}

    kill_when(start(broken, **slow), lambda: len(lines(store, "responses")) >= 5)
    kept = lines(store, "responses")
    assert len(kept) >= 5 and not list(store.glob("artifacts/responses/*/manifest.json"))

    kill_when(start(broken), lambda: len(lines(store, "preferences")) >= 4)
    rows = lines(store, "responses", "rows.jsonl")
    assert set(kept) <= set(rows), "rows that were written must be kept byte for byte"
    scores = lines(store, "preferences")

    def checkpoint(stage: str) -> bool:
        return bool(list(store.glob(f"artifacts/{stage}/*/checkpoints/checkpoint-*/trainer_state.json")))

    kill_when(start(broken), lambda: checkpoint("sft"))
    assert set(scores) <= set(lines(store, "preferences", "scores.jsonl"))
    kill_when(start(broken), lambda: checkpoint("dpo"))
    done = run_cli("train", "recipe.yaml", "--json", cwd=broken)
    assert done.returncode == 0, done.stderr

    a, b = json.loads(done.stdout), json.loads(unbroken.stdout)
    resumed = [a["training"][stage]["result"].pop("resumed_from") for stage in ("sft", "dpo")]
    assert all(resumed), "training must have been resumed, or this test shows nothing"
    assert [b["training"][stage]["result"].pop("resumed_from") for stage in ("sft", "dpo")] == [None, None]
    for report in (a, b):
        report.pop("directory")
    assert a == b

    def weights(folder: Path) -> bytes:
        (path,) = folder.glob("store/artifacts/dpo/*/adapter/adapter_model.safetensors")
        return path.read_bytes()

    assert weights(broken) == weights(whole), "resumed training must equal unbroken training, byte for byte"


@pytest.mark.slow
def test_interrupt(workshop: Path) -> None:
    """Ctrl-C: exit code 130, a word of comfort, no process left, and the same command continues."""
    import psutil

    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "charforge"), "train", "recipe.yaml", "--until", "responses"],
        cwd=workshop,
        env={**os.environ, "CHARFORGE_SCRIPTED_DELAY": "0.2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    store = workshop / "store"
    deadline = time.monotonic() + 60
    while len(lines(store, "responses")) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors.decode()
    assert b"the same command continues" in errors and b"Traceback" not in errors
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    kept = lines(store, "responses")
    done = run_cli("train", "recipe.yaml", "--until", "responses", cwd=workshop)
    assert done.returncode == 0 and "interrupted" in done.stderr
    assert set(kept) <= set(lines(store, "responses", "rows.jsonl"))


@pytest.mark.slow
def test_a_child_dies_with_its_parent(workshop: Path) -> None:
    """kill -9 of the parent alone leaves nothing running."""
    import psutil

    process = start(workshop, CHARFORGE_SCRIPTED_DELAY="0.5")
    deadline = time.monotonic() + 60
    while not lines(workshop / "store", "scenarios") and time.monotonic() < deadline:
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
