"""The commands that share a character: export and import, push and pull, and a server."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charforge.cli.characters import CharacterArgument, JsonOption, StoreOption, _find
from charforge.errors import UserError, missing_extra

if TYPE_CHECKING:
    from charforge.sharing import Imported
    from charforge.store import Store

MergeOption = Annotated[bool, typer.Option("--merge", help="The whole model in bfloat16, the adapter merged into it.")]
PathsOption = Annotated[
    bool, typer.Option("--allow-paths", help="Also if a text in it names a folder of this machine.")
]
BaseOption = Annotated[
    Path | None,
    typer.Option("--model", help="The folder of its base model, if that is on no hub.", metavar="FOLDER"),
]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with its base model, whenever it is used.")
]


def export(
    character: CharacterArgument,
    folder: Annotated[Path, typer.Argument(help="A folder that is empty or not there.", metavar="DIR")],
    merge: MergeOption = False,
    gguf: Annotated[bool, typer.Option("--gguf", help="Also write the model as GGUF, for llama.cpp.")] = False,
    converter: Annotated[
        Path | None,
        typer.Option(
            "--gguf-converter",
            envvar="CHARFORGE_GGUF_CONVERTER",
            help="The path of llama.cpp's convert_hf_to_gguf.py.",
            metavar="PATH",
        ),
    ] = None,
    allow_paths: PathsOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a character as a folder that others can load: weights, tokenizer, constitution, numbers, model card."""
    from charforge import sharing

    if gguf and (converter is None or not converter.is_file()):
        raise UserError(
            "GGUF is written by llama.cpp's convert_hf_to_gguf.py, which no Python package brings along",
            place=str(converter) if converter else None,
            hint="get llama.cpp, then give --gguf-converter PATH/convert_hf_to_gguf.py or set CHARFORGE_GGUF_CONVERTER",
        )
    place, entry = _find(character, store)
    about = sharing.export(
        place, entry, folder, merge=merge, converter=converter if gguf else None, allow_paths=allow_paths
    )
    if as_json:
        typer.echo(json.dumps({**about, "directory": str(folder)}, indent=1))
        return
    size = sum(found["bytes"] for found in about["files"].values())
    typer.echo(f"{entry.id}: {len(about['files']) + 1} files, {size / 1e6:.1f} MB, in {folder}")


def import_(
    folder: Annotated[Path, typer.Argument(help="A folder that charforge export wrote.", metavar="DIR")],
    model: BaseOption = None,
    trust_remote_code: TrustOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify an exported folder and add its character to the store. Exit code 2 if a file is not as it was exported.

    The digests find damage. They do not say who made the folder: import from people you trust.
    """
    from charforge import sharing

    if not folder.is_dir():
        raise UserError("no such folder", place=str(folder))
    found = sharing.bring_in(_new_store(store), folder, model=model, trust_remote_code=trust_remote_code)
    _tell(found, as_json)


def push(
    character: CharacterArgument,
    name: Annotated[str, typer.Argument(help="The repository on the hub; it is made if need be.", metavar="ORG/NAME")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    merge: MergeOption = False,
    allow_paths: PathsOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export a character and upload it to the model hub. It needs HF_TOKEN; HF_ENDPOINT names another hub."""
    from charforge import sharing

    place, entry = _find(character, store)
    place.prepare()
    with tempfile.TemporaryDirectory(dir=place.root, prefix=f".push-{os.getpid()}-") as scratch:
        folder = Path(scratch) / entry.name
        sharing.export(place, entry, folder, merge=merge, allow_paths=allow_paths)
        address = sharing.push(folder, name, private=private, message=entry.id)
    typer.echo(json.dumps({"character": entry.id, "commit": address}) if as_json else f"{entry.id} is {address}")


def pull(
    name: Annotated[
        str, typer.Argument(help="A repository that holds an exported character.", metavar="ORG/NAME[@REVISION]")
    ],
    folder: Annotated[Path | None, typer.Argument(help="Also keep the exported folder, here.", metavar="[DIR]")] = None,
    model: BaseOption = None,
    trust_remote_code: TrustOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a character from the model hub, verify it, and add it to the store. HF_ENDPOINT names another hub."""
    from charforge import sharing

    place = _new_store(store)
    place.prepare()
    with tempfile.TemporaryDirectory(dir=place.root, prefix=f".pull-{os.getpid()}-") as scratch:
        target = folder or Path(scratch) / "character"
        origin = sharing.pull(name, target)
        found = sharing.bring_in(place, target, model=model, trust_remote_code=trust_remote_code, origin=origin)
    _tell(found, as_json)


def serve(
    character: CharacterArgument,
    port: Annotated[int, typer.Option("--port", help="The port to listen on.", min=1, max=65535)] = 8000,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen on. Any but this machine's own needs a key.")
    ] = ("127.0.0.1"),
    key_env: Annotated[
        str | None,
        typer.Option(
            "--api-key-env", help="The environment variable with the key that clients must know.", metavar="NAME"
        ),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Serve a character with vLLM behind an OpenAI-compatible endpoint, under its name as the model's.

    On a GPU the base model is served too, as "base".
    """
    from charforge import characters, sharing
    from charforge.engine.device import uses_cuda

    place, entry = _find(character, store)
    found = characters.recall(entry)
    runtime = found.recipe.runtime
    device = "cuda" if uses_cuda(runtime.device) else "cpu"
    environment = sharing.serve_environment(
        os.environ, device=device, host=host, key_env=key_env, settings=runtime.vllm
    )
    if importlib.util.find_spec("vllm") is None:
        raise missing_extra("vllm", ImportError("vllm"))
    sharing.check_port(host, port)
    model, adapter = sharing.served_folders(place, found, entry, device)
    command = sharing.serve_command(
        entry.reference,
        model,
        adapter,
        runtime.vllm,
        device=device,
        host=host,
        port=port,
        trust_remote_code=found.recipe.model.trust_remote_code,
    )
    typer.echo(f"{entry.id} on {device}; when the server says that it has started, ask it with:\n")
    typer.echo(sharing.curl(entry.reference, host, port, key_env) + "\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, environment)  # noqa: S606


def _new_store(path: Path | None) -> Store:
    """The store to add to; it is made if it is not there."""
    from charforge.store import Store, default_root

    return Store(path or default_root())


def _tell(found: Imported, as_json: bool) -> None:
    entry = found.entry
    if as_json:
        typer.echo(json.dumps({**entry.as_dict(), "known": found.known}, indent=1))
    else:
        typer.echo(f"{entry.id} {'was here already' if found.known else 'is here now'}: charforge show {entry.id}")
    if found.missing_base:
        typer.echo(
            f"its base model, {found.missing_base}, is a folder that is not here; to use the character, import it again "
            "with --model FOLDER",
            err=True,
        )


COMMANDS: dict[str, Callable[..., None]] = {
    "export": export,
    "import": import_,
    "push": push,
    "pull": pull,
    "serve": serve,
}
