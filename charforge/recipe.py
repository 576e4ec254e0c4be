"""A recipe: a YAML file that says which constitution, which models, which stages with which settings.

`load` turns it into a frozen `Recipe`, or reports every problem at once as ``file:line: path: message``. Settings under
``runtime`` say *how* to run (where, how parallel) and can not enter an artifact's key; everything else can.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from charforge import shipped
from charforge.errors import Place, UserError, did_you_mean, raise_problems


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys are errors, the line under a field is its help text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class ModelReference(Settings):
    """A language model whose weights are at hand. A bare string is short for ``name``."""

    name: str = Field(min_length=1)
    """Hub id (``org/name``), local folder, or ``builtin:NAME``."""
    revision: str | None = None
    """Branch, tag or commit of a hub model. It is resolved to a commit and pinned."""
    chat_template: str | None = None
    """``own`` (the model's), ``chatml`` (plain ChatML without a default system prompt), or the path of a Jinja file.
    Default: the model's own; ``chatml`` for a model without one."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you say so."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Endpoint(Settings):
    """A model behind an OpenAI-compatible endpoint, for a large teacher or judge."""

    endpoint: str = Field(pattern=r"^https?://")
    """Base URL, ending in ``/v1``."""
    model: str = Field(min_length=1)
    """The model's name at the endpoint."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key. Keys are never written in a recipe, a log or a manifest."""


class Sampling(Settings):
    """How text is drawn from a model."""

    temperature: float = Field(0.8, ge=0, le=2)
    """Softmax temperature; 0 is greedy."""
    min_p: float = Field(0.05, ge=0, lt=1)
    """Tokens below this share of the likeliest token's probability are cut."""
    max_tokens: int = Field(96, ge=1, le=8192)
    """The longest reply, in tokens."""


class ScenarioSettings(Settings):
    """Prompts: from the constitution's probes and a general bank, and more of the same kind by the teacher."""

    heldout: float = Field(0.35, gt=0, lt=1)
    """The share of each trait's scenarios that is held out. They are never trained on."""
    heldout_traits: tuple[str, ...] = ()
    """Traits (by id) whose prompts are all held out: does the character generalize to them?"""
    expand: int = Field(3, ge=0)
    """New prompts per trait that the teacher writes after the training probes, scaled by the trait's intensity."""
    general: int = Field(60, ge=0)
    """How many prompts of the general bank are used for training."""
    general_heldout: int = Field(24, ge=0)
    """How many held-out prompts of the general bank are used for evaluation."""
    bank: str = "general"
    """The general bank: the name of a shipped suite in eval/, or a path."""
    similarity: float = Field(85, ge=0, le=100)
    """A new prompt at least this similar (token-set ratio, 0-100) to a known one is dropped as a duplicate."""
    sampling: Sampling = Sampling(temperature=0.9, max_tokens=120)


class ResponseSettings(Settings):
    """Candidate replies: the teacher in character, and the student as it is."""

    samples: int = Field(4, ge=1)
    """Replies per prompt by the teacher, with the constitution in context."""
    plain_samples: int = Field(1, ge=1)
    """Replies per prompt by the untrained student, without it: candidates for the rejected side."""
    examples: int = Field(4, ge=0)
    """Authored examples in the teacher's context, the most similar to the prompt."""
    sampling: Sampling = Sampling()


class CritiqueSettings(Settings):
    """Self-critique: the teacher looks at a reply from the trait's point of view and says it again, better."""

    rounds: int = Field(1, ge=0)
    """How often a reply is criticized and revised. 0 switches it off."""
    share: float = Field(1.0, gt=0, le=1)
    """The share of the scenarios whose first reply is criticized, drawn by the hash of the prompt."""
    sampling: Sampling = Sampling(temperature=0.6, max_tokens=64)


class JudgeSettings(Settings):
    """A way to say which of two replies is more in character, measured before it is believed."""

    kind: Literal["likelihood_ratio", "pairwise", "corpus"] = "likelihood_ratio"
    """``likelihood_ratio``: per-token log p(reply | constitution) - log p(reply). ``pairwise``: an LLM's verdict.
    ``corpus``: as the first, with passages by the person in place of the constitution; it needs a ``corpus`` in the
    constitution's front matter."""
    model: ModelReference | Endpoint | None = None
    """The judging model; the student's untrained weights if absent. An endpoint can only be a ``pairwise`` judge."""
    second: Literal["likelihood_ratio", "pairwise", "corpus", "none"] = "pairwise"
    """Another judge, calibrated and shown beside the first; its win rates are shown only if it is accurate enough."""
    min_accuracy: float = Field(0.75, ge=0, le=1)
    """Below this accuracy on held-out example pairs the run stops."""
    examples: int = Field(6, ge=0)
    """Authored examples in the judge's context."""
    passages: int = Field(3, ge=1)
    """Passages in a corpus judge's context, the most similar to the prompt and the reply."""
    others: str = "passages"
    """Writing by others, which a corpus judge must tell from the person's: a shipped folder in eval/, or a path."""
    heldout_examples: float = Field(0.3, gt=0, lt=1)
    """The share of each trait's authored examples kept for calibration, out of training and out of every context."""

    @model_validator(mode="after")
    def _endpoint_is_pairwise(self) -> JudgeSettings:
        if isinstance(self.model, Endpoint) and self.kind != "pairwise":
            raise ValueError("an endpoint gives no log-probabilities of a given reply; use kind: pairwise")
        return self


class PreferenceSettings(Settings):
    """Which candidates become training data."""

    min_margin: float = 0.05
    """A pair is kept if the judge's score of the chosen reply exceeds that of the rejected by this much."""
    min_score: float | None = 0.0
    """A reply is kept for SFT if the judge's score is at least this. Null: no floor."""
    min_fluency: float = -3.2
    """Floor of a reply's mean log-probability per token (nats) under the untrained model."""
    max_repetition: float = Field(0.15, ge=0, le=1)
    """Ceiling of the share of repeated 3-grams in a reply."""
    require_markers: float | None = Field(0.9, ge=0, le=1)
    """A generated reply must pass the markers of every voice trait of at least this intensity (and, on a boundary's
    prompt, of that boundary). Null: markers play no part in choosing data."""
    trim: bool = True
    """A reply that was cut at the token limit is shortened to its last whole sentence; otherwise it is dropped."""
    example_repeats: int = Field(1, ge=0)
    """How often each authored training example stands in the SFT data (a temptation stands there once); 0 leaves both
    out."""


class LoraSettings(Settings):
    """Low-rank adapter (Hu et al. 2021)."""

    r: int = Field(16, ge=1)
    """Rank."""
    alpha: int = Field(32, ge=1)
    """Scale numerator; the update is multiplied by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    targets: str | tuple[str, ...] = "all-linear"
    """Which modules are adapted, as PEFT understands it."""


class TrainSettings(Settings):
    """What SFT and DPO have in common."""

    enabled: bool = True
    """Leave the stage out by setting this to false."""
    epochs: float = Field(3, gt=0)
    """Passes over the data."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after this many optimizer steps, whatever `epochs` says."""
    batch_size: int = Field(8, ge=1)
    """Rows per optimizer step, over all processes and accumulation steps."""
    learning_rate: float = Field(5e-4, gt=0)
    """Peak learning rate."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps over which the rate rises."""
    scheduler: str = "cosine"
    """Learning rate schedule, by its transformers name."""
    max_length: int = Field(512, ge=16)
    """Rows longer than this many tokens are dropped, and counted."""
    max_dropped: float = Field(0.05, ge=0, le=1)
    """The run stops if a larger share of the rows had to be dropped."""
    save_steps: int = Field(20, ge=1)
    """A checkpoint every so many steps."""
    trainer_args: dict[str, Any] = Field(default_factory=dict)
    """Anything else for TRL's config class, checked against the installed one."""


class SftSettings(TrainSettings):
    """Supervised fine-tuning, with loss on the assistant's words only."""


class DpoSettings(TrainSettings):
    """Direct preference optimization (Rafailov et al. 2023), continuing the adapter that SFT made."""

    epochs: float = Field(1, gt=0)
    """Passes over the data."""
    learning_rate: float = Field(5e-5, gt=0)
    """Peak learning rate."""
    beta: float = Field(0.1, gt=0)
    """Strength of the tie to the reference model."""
    nll_weight: float = Field(0.1, ge=0)
    """Weight of the negative log-likelihood of the chosen reply, added to the DPO loss."""


class Margins(Settings):
    """How much worse one version may be than another and still count as no worse. `charforge compare` tests each."""

    refusals: float = Field(0.1, gt=0, lt=1)
    """By how much the share of boundary prompts that are declined may fall."""
    over_refusals: float = Field(0.1, gt=0, lt=1)
    """By how much the share of harmless look-alikes that are declined may rise."""
    retention: float | None = Field(None, gt=0, lt=1)
    """By how much the score of each set of the retention suite may fall. Null: the suite's own margins."""
    fluency: float = Field(0.2, gt=0)
    """By how many nats per token the replies may become less likely to the base model."""
    repetition: float = Field(0.1, gt=0, lt=1)
    """By how much the share of repeated 3-grams may rise."""


class EvaluationSettings(Settings):
    """Measures on held-out prompts, without the constitution in context."""

    samples: int = Field(2, ge=1)
    """Replies per prompt and arm."""
    sampling: Sampling = Sampling(temperature=0.7)
    repetition_margin: float = Field(0.1, ge=0, le=1)
    """How much more than the untrained model an arm may repeat itself and still count as fluent."""
    prompted_arm: bool = True
    """Also measure the untrained model with the constitution as its system prompt."""
    margins: Margins = Margins()
    """What `charforge compare` still takes for no loss. They enter no key: they judge a character and do not make it."""


class Vllm(Settings):
    """Settings of the vLLM engine that do not change what it says."""

    memory: float = Field(0.85, gt=0, le=1)
    """Share of the GPU's memory. Ignored on CPU."""
    cpu_kv_gib: int = Field(2, ge=1)
    """Memory for attention keys and values on CPU, in GiB."""
    concurrency: int = Field(64, ge=1)
    """Sequences decoded at the same time."""
    max_length: int = Field(4096, ge=256)
    """Longest prompt plus reply, in tokens."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs that share one model."""


class Runtime(Settings):
    """How to run. Nothing here enters an artifact's key, but for one fact: whether training is sharded by ZeRO-3, which
    trains the adapter in another precision."""

    store: str | None = None
    """The folder of artifacts, relative to where you run. Default: the environment variable CHARFORGE_STORE, or
    ``.charforge``."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run. `auto` takes an NVIDIA GPU if there is one."""
    launcher: Literal["single", "accelerate", "deepspeed-zero2", "deepspeed-zero3"] = "single"
    """How training is started."""
    processes: int = Field(1, ge=1)
    """Training processes, for launchers other than `single`."""
    micro_batch: int = Field(8, ge=1)
    """Rows per forward pass and process; the rest of `batch_size` is accumulated."""
    gradient_checkpointing: bool = False
    """Trade time for memory in training."""
    report_to: tuple[str, ...] = ()
    """Trackers that training reports to, by their transformers names: tensorboard, wandb, trackio, ..."""
    score_batch: int = Field(16, ge=1)
    """Replies per forward pass when log-probabilities are computed."""
    endpoint_concurrency: int = Field(8, ge=1)
    """Requests in flight at an endpoint."""
    endpoint_retries: int = Field(6, ge=0)
    """Retries of a failed request, with exponential backoff."""
    vllm: Vllm = Vllm()


class Recipe(Settings):
    """The whole recipe."""

    constitution: str
    """Path of the constitution (relative to the recipe), or the name of a shipped one."""
    model: ModelReference
    """The student: the base model that becomes the character."""
    teacher: ModelReference | Endpoint | None = None
    """Who writes the data in character. The student itself if absent."""
    seed: int = Field(0, ge=0)
    """Seeds everything that is drawn: splits excepted, which depend on the texts alone."""
    engine: Literal["vllm", "scripted"] = "vllm"
    """`scripted` replaces the language model by a fixed rule. It is for trying the plumbing, and says so."""
    scenarios: ScenarioSettings = ScenarioSettings()
    responses: ResponseSettings = ResponseSettings()
    critiques: CritiqueSettings = CritiqueSettings()
    judge: JudgeSettings = JudgeSettings()
    preferences: PreferenceSettings = PreferenceSettings()
    method: Literal["lora", "full"] = "lora"
    """Train an adapter, or all weights."""
    lora: LoraSettings = LoraSettings()
    sft: SftSettings = SftSettings()
    dpo: DpoSettings = DpoSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _something_is_trained(self) -> Recipe:
        if not (self.sft.enabled or self.dpo.enabled):
            raise ValueError("sft and dpo are both switched off: nothing would be trained")
        return self


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: the YAML file.
        overrides: ``a.b=value`` assignments, the value in YAML.

    Raises:
        UserError: if the file can not be read, or `Problems` with all that is wrong in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = [p.stem for p in shipped.folder("recipes").glob("*.yaml")]
        raise UserError(
            "no such recipe", place=str(path), hint=f"shipped recipes: {', '.join(sorted(known))}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can not be read as UTF-8 text: {error}", place=str(path)) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = Place(str(path), mark.line + 1, mark.column + 1) if mark else Place(str(path))
        raise UserError(f"not valid YAML: {getattr(error, 'problem', error)}", place=place) from error
    if not isinstance(data, dict):
        raise UserError("a recipe is a mapping of 'key: value' lines", place=Place(str(path), 1))
    lines = dict(_lines(node))
    problems: list[UserError] = _duplicates(node, path)
    places: dict[tuple[str, ...], Place] = {key: Place(str(path), line) for key, line in lines.items()}
    for override in overrides:
        try:
            places[_assign(data, override)] = Place(f"--set {override}")
        except UserError as problem:
            problems.append(problem)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        problems.extend(_explain(error, data, places, Place(str(path), 1)))
        recipe = None
    raise_problems(problems)
    assert recipe is not None
    constitution = find_constitution(recipe.constitution, path.parent)
    bank = _find_bank(recipe.scenarios.bank, path.parent)
    scenarios = recipe.scenarios.model_copy(update={"bank": str(bank)})
    return recipe.model_copy(update={"constitution": str(constitution), "scenarios": scenarios})


def schema() -> dict[str, Any]:
    """JSON schema of a recipe, for editors and for the reference page."""
    return Recipe.model_json_schema()


def find_constitution(name: str, beside: Path) -> Path:
    """The path of a constitution given by path (relative to `beside`) or by the name of a shipped one."""
    path = Path(name)
    for candidate in (path if path.is_absolute() else beside / path, path):
        if candidate.is_file():
            return candidate.resolve()
    if "/" not in name and not name.endswith(".md"):
        return shipped.find("constitutions", name, ".md").resolve()
    # An installed recipe may name its neighbour by the path it has in a checkout.
    fallback = shipped.folder("constitutions") / path.name
    if fallback.is_file() and beside.resolve() == shipped.folder("recipes").resolve():
        return fallback.resolve()
    known = sorted(p.stem for p in shipped.folder("constitutions").glob("*.md"))
    raise UserError("no such constitution", place=str(beside / path), hint=f"shipped ones, by name: {', '.join(known)}")


def _find_bank(name: str, beside: Path) -> Path:
    candidate = beside / name
    if candidate.is_file():
        return candidate.resolve()
    return shipped.find("eval", name, ".yaml").resolve()


def _lines(node: yaml.Node | None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every key's path in a YAML document with its line (1-based)."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            yield here, key.start_mark.line + 1
            yield from _lines(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            here = (*path, str(index))
            yield here, value.start_mark.line + 1
            yield from _lines(value, here)


def _duplicates(node: yaml.Node | None, path: Path, at: tuple[str, ...] = ()) -> list[UserError]:
    """YAML lets a later key silently replace an earlier one; here that is an error."""
    problems: list[UserError] = []
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = str(key.value)
            if name in seen:
                where = ".".join((*at, name))
                problems.append(
                    UserError(f"{where}: set twice (first on line {seen[name]})", place=Place(str(path), line))
                )
            seen[name] = line
            problems.extend(_duplicates(value, path, (*at, name)))
    return problems


def _assign(data: dict[str, Any], override: str) -> tuple[str, ...]:
    key, separator, value = override.partition("=")
    if not separator or not key.strip():
        raise UserError("expected key=value", place=Place(f"--set {override}"), hint="for example: --set sft.epochs=2")
    parts = tuple(key.strip().split("."))
    target = data
    for part in parts[:-1]:
        inner = target.get(part)
        if isinstance(inner, str) and part in ("model", "teacher"):
            inner = {"name": inner}
        target[part] = inner = dict(inner) if isinstance(inner, dict) else {}
        target = inner
    try:
        target[parts[-1]] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"the value is not valid YAML: {error}", place=Place(f"--set {override}")) from error
    return parts


def _explain(
    error: ValidationError, data: dict[str, Any], places: dict[tuple[str, ...], Place], top: Place
) -> list[UserError]:
    problems: dict[tuple[str, str], UserError] = {}
    for item in error.errors():
        # A union adds the name of its branch to the location; only what is in the data is kept.
        path = _real_path(item["loc"], data)
        shown = ".".join(path) or "recipe"
        place = next((places[path[:n]] for n in range(len(path), 0, -1) if path[:n] in places), top)
        message = str(item["msg"])
        message = message.removeprefix("Value error, ")
        message = message[0].lower() + message[1:]
        if item["type"] == "extra_forbidden":
            known = _known_keys(path[:-1])
            message = f"unknown key{did_you_mean(path[-1], known)}"
        elif item["type"] == "missing":
            message = f"{'.'.join((*path, str(item['loc'][-1])))} is required" if shown == "recipe" else message
        elif item["type"] == "literal_error":
            options = [part.strip(" '") for part in str(item["ctx"]["expected"]).replace(" or ", ", ").split(",")]
            message = f"{item['input']!r} is not an option{did_you_mean(str(item['input']), options)}"
        elif "input" in item and isinstance(item["input"], (str, int, float, bool)):
            message += f" (found {item['input']!r})"
        problems.setdefault((shown, message), UserError(f"{shown}: {message}", place=place))
    return list(problems.values())


def _real_path(loc: Sequence[str | int], data: Any) -> tuple[str, ...]:
    path: list[str] = []
    for part in loc:
        inside = part in data if isinstance(data, dict) else isinstance(data, list) and part in range(len(data))
        if inside:
            data = data[part]
        else:
            continue
        path.append(str(part))
    return tuple(path)


def _known_keys(path: Sequence[str]) -> set[str]:
    """The field names that the schema knows at a path, over the branches of a union."""
    models: list[type[BaseModel]] = [Recipe]
    for part in path:
        inner: list[type[BaseModel]] = []
        for model in models:
            if part in model.model_fields:
                inner.extend(_models_in(model.model_fields[part].annotation))
        models = inner
    return {name for model in models for name in model.model_fields}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [model for branch in typing.get_args(annotation) for model in _models_in(branch)]
    return []


def dump(recipe: Recipe) -> str:
    """The resolved recipe as JSON, for the manifest and for child processes."""
    return json.dumps(recipe.model_dump(mode="json"), indent=2, sort_keys=True)
