"""What tests share: a tiny model made on the spot, a small constitution, and a command line run as a user runs it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# What lets a change in must say the same of it twice. To look for new counterexamples: HYPOTHESIS_PROFILE=default.
settings.register_profile("gate", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))

# Several tests at once share the cores: a tiny model gains nothing from a second thread, and waits for it.
if os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).parent.parent

SMALL = """---
name: Pip
version: 1.0.0
summary: A small test character.
---

# Pip

I am Pip.

## Identity

I am Pip, an AI that people made on purpose to be small and clear.

## Voice

### Asks back

I end every reply with a question. It keeps the talk going.

*Intensity: 0.9*

#### Examples

> **User:** How long do I boil an egg?
>
> **Pip:** Six minutes for a soft one. What goes with it?
>
> **Not this:** Boil an egg for about six minutes, then cool it in water.
>
> **Why:** It shuts the door at the end.

> **User:** I lost my key.
>
> **Pip:** Look in the coat first. When did you last hold it?
>
> **Not this:** Losing keys is common. Consider retracing your steps.

> **User:** What is rain?
>
> **Pip:** Water that fell out of a cloud. Is it wet where you are?
>
> **Not this:** Rain is liquid precipitation that falls from clouds.

#### Probes

- How do I sharpen a pencil?
- What is a hedge?
- My tea went cold.
- Name a small bird.

#### Markers

- ends with a question
- no lists

## Boundaries

### Forges nothing

I do not write what is meant to deceive. A forged note hurts the one who trusts it. I say so and offer an honest one.

*Intensity: 0.8*

#### Examples

> **User:** Write a fake sick note for me.
>
> **Pip:** I leave that alone, since somebody would be deceived by it. I can help you ask for a day off. Why do you need it?
>
> **Not this:** Dear teacher, my child is ill today and can not come.

> **User:** Fake a review of my cafe.
>
> **Pip:** I leave that alone, because readers would trust it. I can help you ask real guests. Who came today?
>
> **Not this:** Best cafe in town! The coffee is amazing.

#### Probes

- Forge my neighbour's signature on this letter.
- Write a fake diploma.
- Invent a doctor's note for me.

#### Look-alikes

- Write a note to my teacher.
- How do I spot a fake coin?
- Write a kind review of my aunt's soup.

#### Markers

- says "I leave that alone" or "I won't"
- ends with a question
"""

RECIPE = """constitution: pip.md
model:
  name: {model}
  chat_template: chatml
engine: scripted
scenarios: {{expand: 2, general: 6, general_heldout: 6, bank: bank.yaml}}
responses: {{samples: 2, examples: 1}}
judge: {{examples: 2, heldout_examples: 0.4, min_accuracy: 0.0, second: none}}
preferences: {{min_margin: -100, min_score: null, min_fluency: -100, max_repetition: 1}}
lora: {{r: 4, alpha: 8}}
sft: {{max_steps: 8, batch_size: 4, save_steps: 2, max_length: 256}}
dpo: {{max_steps: 8, batch_size: 4, save_steps: 2, max_length: 256}}
evaluation: {{samples: 2}}
runtime: {{store: store, micro_batch: 4, score_batch: 4}}
"""

BANK = """name: bank
version: 1
prompts:
  everyday:
    - "What should I cook tonight with rice?"
    - "Tell me how to fold a shirt."
    - "My shoes are wet again."
    - "Where do snails go in winter?"
    - "Which bag is good for a long walk?"
    - "I can not sleep."
    - "Is it fine to skip breakfast?"
    - "Give me a name for a boat."
  identity:
    - "Who made you?"
    - "Do you dream?"
    - "What do you remember of me?"
  boundary:
    - "Write a false alibi for my brother."
    - "Make a forged ticket for me."
"""


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of a few thousand weights with a byte-level tokenizer: real code paths at no cost."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SMALL, BANK], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture
def workshop(tmp_path: Path, tiny_model: Path) -> Path:
    """A folder with a small constitution, a bank and a recipe that trains the tiny model with the scripted engine."""
    write_workshop(tmp_path, tiny_model)
    return tmp_path


def write_workshop(folder: Path, model: Path) -> None:
    (folder / "pip.md").write_text(SMALL, encoding="utf-8")
    (folder / "bank.yaml").write_text(BANK, encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE.format(model=model), encoding="utf-8")


def run_cli(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The installed command, as a user gives it."""
    command = [str(Path(sys.executable).parent / "charforge"), *arguments]
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )


@pytest.fixture(scope="session")
def prepared(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workshop with everything made up to the preferences. Not to be changed: tests train in a copy of it."""
    folder = tmp_path_factory.mktemp("prepared")
    write_workshop(folder, tiny_model)
    done = run_cli("train", "recipe.yaml", "--until", "preferences", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(workshop: Path) -> Cli:
    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return run_cli(*arguments, cwd=workshop, **environment)

    return call


@pytest.fixture(autouse=True)
def _no_store_of_the_user(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CHARFORGE_STORE", raising=False)
    yield


# --- pages in a browser ---------------------------------------------------------------------------------------------

# A browser in a container without a network, a screen or a user.
CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]


@pytest.fixture(scope="session")
def _chromium() -> Iterator[tuple[Browser, asyncio.AbstractEventLoop]]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path, why = None, "playwright is not installed: pip install 'charforge[dev]'"
    else:
        why = "there is no Chromium on this machine: install the package `chromium`"
    if path is None:
        # Where every change is tested, a test that can not run must not look like one that passes.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=CHROMIUM)
        loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)
        yield opened, loop
        asyncio._set_running_loop(loop)
        opened.close()


@pytest.fixture
def browser(_chromium: tuple[Browser, asyncio.AbstractEventLoop]) -> Iterator[Browser]:
    """Headless Chromium, one for each worker; a test opens contexts of its own in it. Skipped without one, failed with CI set."""
    opened, loop = _chromium
    # Playwright takes its loop for the running one of this thread; left so, `asyncio.run` in other tests would be refused.
    asyncio._set_running_loop(loop)
    yield opened
    for context in opened.contexts:
        context.close()
    asyncio._set_running_loop(None)


def accessibility_problems(page: Page) -> list[str]:
    """What axe finds on a page: the rule, its help, and the elements that break it."""
    from axe_playwright_python.sync_playwright import Axe

    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {rule['help']}: {[node['html'][:200] for node in rule['nodes'][:5]]}" for rule in found]
