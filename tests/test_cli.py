"""The command line: instant help, exit codes, and ten kinds of bad input, each with a place, a remedy and no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, SMALL, Cli, run_cli


def test_help_is_instant_and_light() -> None:
    code = (
        "import sys; from charforge import cli;"
        "heavy = {'torch', 'transformers', 'numpy', 'scipy', 'markdown_it', 'openai', 'pydantic'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    times = []
    for _ in range(3):
        begin = time.monotonic()
        done = run_cli("--help", cwd=REPOSITORY)
        times.append(time.monotonic() - begin)
        assert done.returncode == 0 and "train" in done.stdout
    assert min(times) < 0.5


def test_usage_errors() -> None:
    for arguments in (["train"], ["trian"], ["train", "--nope"]):
        done = run_cli(*arguments, cwd=REPOSITORY)
        assert done.returncode == 2, arguments
        assert "Traceback" not in done.stderr


def bad(done: subprocess.CompletedProcess[str], *expected: str, code: int = 2) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and not done.stdout
    for text in expected:
        assert text in done.stderr, done.stderr


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_unknown_key(cli: Cli, workshop: Path) -> None:
    edit(workshop / "recipe.yaml", "sft:", "stf: {}\nsft:")
    bad(cli("train", "recipe.yaml"), "recipe.yaml:", "stf: unknown key; did you mean 'sft'?")


def test_bad_number(cli: Cli, workshop: Path) -> None:
    edit(workshop / "recipe.yaml", "r: 4", "r: four")
    bad(cli("train", "recipe.yaml"), "lora.r: input should be a valid integer", "'four'")


def test_missing_constitution(cli: Cli, workshop: Path) -> None:
    edit(workshop / "recipe.yaml", "pip.md", "pipp.md")
    bad(cli("train", "recipe.yaml"), "no such constitution", "pipp.md")


def test_constitution_without_traits(cli: Cli, workshop: Path) -> None:
    (workshop / "pip.md").write_text(SMALL.split("## Voice")[0])
    bad(cli("train", "recipe.yaml"), "pip.md:", "no traits", "'### ...' heading")


def test_duplicate_trait(cli: Cli, workshop: Path) -> None:
    edit(workshop / "pip.md", "### Forges nothing", "### Asks back")
    bad(cli("train", "recipe.yaml"), "pip.md:", "defined twice", "another title")
    bad(cli("constitution", "check", "pip.md"), "defined twice")


def test_unreadable_model(cli: Cli, workshop: Path) -> None:
    bad(cli("train", "recipe.yaml", "--set", "model.name=./nowhere"), "no such model folder", "config.json")


def test_model_without_template(cli: Cli) -> None:
    bad(cli("train", "recipe.yaml", "--set", "model.chat_template=own"), "no chat template of its own", "chatml")


def test_unknown_builtin(cli: Cli) -> None:
    bad(
        cli("train", "recipe.yaml", "--set", "model.name=builtin:smolm"),
        "unknown builtin model",
        "smollm2-135m-instruct",
    )


def test_unwritable_store(cli: Cli, workshop: Path) -> None:
    (workshop / "file").write_text("")
    bad(cli("train", "recipe.yaml", "--set", "runtime.store=file/store"), "can not be written", "CHARFORGE_STORE")


def test_corrupt_artifact(cli: Cli, workshop: Path) -> None:
    dry = json.loads(cli("train", "recipe.yaml", "--dry-run", "--json").stdout)["steps"][0]
    folder = workshop / dry["directory"]
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"key": "of another"}')
    bad(cli("train", "recipe.yaml"), "corrupt artifact of stage 'scenarios'", "--force scenarios")
    assert (folder / "manifest.json").exists()


def test_unknown_stage_and_recipe(cli: Cli) -> None:
    bad(cli("train", "recipe.yaml", "--until", "sftt"), "no stage 'sftt'", "did you mean 'sft'?")
    bad(cli("train", "recip.yaml"), "no such recipe")
    bad(cli("report", "pip@9.9.9"), "no trained character")


def test_dry_run_says_what_and_why_and_writes_nothing(cli: Cli, workshop: Path) -> None:
    before = sorted(workshop.rglob("*"))
    done = cli("train", "recipe.yaml", "--dry-run")
    assert done.returncode == 0 and "never made" in done.stdout and "15 of 15 stages would run" in done.stdout
    assert sorted(workshop.rglob("*")) == before


def test_constitution_check(cli: Cli) -> None:
    done = cli("constitution", "check", "pip.md", "--json")
    (found,) = json.loads(done.stdout)["constitutions"]
    assert found["reference"] == "pip@1.0.0" and found["examples"] == 5


def test_recipe_copy_trains_elsewhere(tmp_path: Path) -> None:
    assert "demo" in run_cli("recipe", "list", cwd=tmp_path).stdout
    done = run_cli("recipe", "copy", "demo", "mine.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert run_cli("recipe", "check", "mine.yaml", cwd=tmp_path).returncode == 0
    again = run_cli("recipe", "copy", "demo", "mine.yaml", cwd=tmp_path)
    assert again.returncode == 2 and "exists already" in again.stderr
    # For a constitution of one's own, which stays where it is.
    assert run_cli("constitution", "new", "Vesper", cwd=tmp_path).returncode == 0
    done = run_cli("recipe", "copy", "demo", "vesper.yaml", "--constitution", "vesper.md", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    checked = run_cli("recipe", "check", "vesper.yaml", cwd=tmp_path)
    assert checked.returncode == 0 and "vesper@0.1.0" in checked.stdout


def test_a_copied_council_brings_its_voices(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "constitution: moot\nmodel: builtin:smollm2-135m-instruct\n", encoding="utf-8"
    )
    assert run_cli("recipe", "check", "recipe.yaml", cwd=tmp_path).returncode == 0


def test_new_writes_what_passes_check(tmp_path: Path) -> None:
    done = run_cli("constitution", "new", "Vesper Lund", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "vesper-lund.md").read_text(encoding="utf-8")
    assert "Juno" not in text and text.count("<!--") > 5
    checked = run_cli("constitution", "check", "vesper-lund.md", "--strict", cwd=tmp_path)
    assert checked.returncode == 0 and "no warnings" in checked.stdout
    again = run_cli("constitution", "new", "Vesper Lund", cwd=tmp_path)
    assert again.returncode == 2 and "exists already" in again.stderr
    odd = run_cli("constitution", "new", "a: b", cwd=tmp_path)
    assert odd.returncode == 2 and "can not be a character's name" in odd.stderr
    for template in ("moot", "thorne"):
        other = run_cli("constitution", "new", f"Bo {template}", "--from", template, cwd=tmp_path)
        assert other.returncode == 0, other.stderr
        checked = run_cli("constitution", "check", f"bo-{template}.md", cwd=tmp_path)
        assert checked.returncode == 0 and "no warnings" in checked.stdout, checked.stdout


def test_show_and_graph(workshop: Path) -> None:
    shown = json.loads(run_cli("constitution", "show", "pip.md", "--json", cwd=workshop).stdout)
    assert [trait["id"] for trait in shown["traits"]] == ["asks-back", "forges-nothing"]
    assert shown["traits"][0]["told"].count("I end every reply with a question.") == 1
    assert shown["sheet"]["tokens"] > 20 and shown["counted_by"] == "estimate"
    one = run_cli("constitution", "show", "pip.md", "--trait", "Asks back", cwd=workshop)
    assert "I am Pip, an AI" in one.stdout and "Forges" not in one.stdout
    wrong = run_cli("constitution", "show", "pip.md", "--trait", "asks-bak", cwd=workshop)
    assert wrong.returncode == 2 and "did you mean 'asks-back'" in wrong.stderr
    assert run_cli("constitution", "graph", "pip.md", cwd=workshop).returncode == 0
    drawing = (workshop / "pip.svg").read_text(encoding="utf-8")
    assert drawing.startswith("<?xml") and "Asks back" in drawing
    run_cli("constitution", "graph", "pip.md", "--output", "again.svg", cwd=workshop)
    assert (workshop / "again.svg").read_text(encoding="utf-8") == drawing


def test_front_matter_schema(tmp_path: Path) -> None:
    data = json.loads(run_cli("constitution", "schema", cwd=tmp_path).stdout)
    assert set(data["required"]) == {"name", "version"}
    assert {"self_description", "council", "include", "corpus"} <= set(data["properties"])
    assert {"type": "string"} in data["properties"]["language"]["anyOf"]


def test_env_and_schema() -> None:
    assert json.loads(run_cli("env", "--json", cwd=REPOSITORY).stdout)["charforge"]
    assert json.loads(run_cli("recipe", "schema", cwd=REPOSITORY).stdout)["title"] == "Recipe"


def test_a_secret_stays_out(cli: Cli, workshop: Path) -> None:
    """A key in the environment is in no file of the store."""
    edit(
        workshop / "recipe.yaml",
        "engine: scripted",
        "engine: vllm\nteacher: {endpoint: 'http://127.0.0.1:9/v1', model: m}",
    )
    cli("train", "recipe.yaml", "--until", "scenarios", OPENAI_API_KEY="sk-very-secret")
    files = [path for path in (workshop / "store").rglob("*") if path.is_file()]
    assert files and not any(b"sk-very-secret" in path.read_bytes() for path in files)


@pytest.mark.slow
def test_the_wheel_works_without_torch(tmp_path: Path) -> None:
    """Built, installed into an empty environment, and used there: what ships is inside, and a missing extra is named."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(REPOSITORY)]
    subprocess.run(build, check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("charforge-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "constitutions/wren.md",
        "constitutions/TEMPLATE.md",
        "constitutions/council/ember.md",
        "constitutions/contrast/terse.md",
        "constitutions/corpus/thorne/1838.md",
        "recipes/demo.yaml",
        "eval/general.yaml",
        "eval/situations.yaml",
        "eval/passages/vane/1840.md",
    ):
        assert f"charforge/shipped/{name}" in names
    assert "charforge/templates/chatml.jinja" in names and "charforge/data/prompts/sheet.md" in names

    target = tmp_path / "site"
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)], check=True)
    # The core's own needs are taken from here; torch and its company are hidden.
    block = (
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'torch', 'transformers', 'vllm', 'trl', 'peft', 'huggingface_hub', 'deepspeed'}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        f"sys.path.insert(0, {str(target)!r})\n"
        "from charforge import cli; assert 'site' in cli.__file__, cli.__file__\n"
        "sys.argv[0] = 'charforge'; cli.main()\n"
    )
    (tmp_path / "run.py").write_text(block)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", str(tmp_path / "run.py"), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ})

    assert "demo" in run("recipe", "list").stdout
    checked = run("constitution", "check", "moot", "thorne", "--void")
    assert checked.returncode == 0 and "no warnings" in checked.stdout, checked.stderr
    letters = target / "charforge/shipped/constitutions/corpus/thorne"
    drafted = run("constitution", "from-corpus", str(letters), "--name", "Abigail")
    assert drafted.returncode == 0 and (tmp_path / "abigail.md").is_file(), drafted.stderr
    assert "CF009" in run("constitution", "check", "--explain", "cf009").stdout
    changed = run("constitution", "diff", "wren", "tove")
    assert changed.returncode == 0 and "artifacts that a run makes again" in changed.stdout, changed.stderr
    dry = run("train", "demo", "--dry-run")
    assert dry.returncode == 0 and "scenarios" in dry.stdout, dry.stderr
    hub = run("train", "demo", "--dry-run", "--set", "model.name=org/model")
    assert hub.returncode == 2 and "pip install 'charforge[train]'" in hub.stderr, hub.stderr
