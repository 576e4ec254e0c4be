"""Code that a model wrote: found in its reply, looked through, and run by a child process with limits.

This is caution and no sandbox. What reaches beyond plain computing (files, processes, the network, introspection) is refused
before anything runs; what runs does so with an empty environment, in an empty folder, for seconds, with little memory.
Who does not trust the model at all runs the evaluation in a container, or sets `run_code: false`.
"""

from __future__ import annotations

import ast
import json
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Literal

Outcome = Literal["passed", "failed", "timeout", "no function", "not run"]

TIMEOUT = 5.0
_FENCE = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_MODULES = frozenset({"collections", "functools", "itertools", "math", "re", "string", "typing"})
# What these modules offer that looks up names or evaluates text.
_REACHING = frozenset(
    "Formatter ForwardRef get_type_hints singledispatch singledispatchmethod update_wrapper wraps".split()  # noqa: SIM905
)
_BUILTINS = frozenset(
    "breakpoint compile delattr eval exec exit getattr globals help input locals open quit setattr vars".split()  # noqa: SIM905
)
# Frames and code objects, by which a function reaches what called it.
_INSIDES = re.compile(r"_|(?:ag|co|cr|f|gi|tb)_")
# Methods that are called like modules of the standard library; any other such attribute is a module in a module.
_MODULE_LIKE = sys.stdlib_module_names - {"copy", "string"}

# Limits are set by the child itself before it reads the code, so that no other thread of ours is forked.
_CHILD = """
import json, resource, sys
for limit, value in ((resource.RLIMIT_CPU, 4), (resource.RLIMIT_AS, 1 << 29), (resource.RLIMIT_FSIZE, 0),
                     (resource.RLIMIT_NPROC, 0), (resource.RLIMIT_NOFILE, 16), (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(limit, (value, value))
job = json.load(sys.stdin)
out, sys.stdout = sys.stdout, None
names = {"__name__": "reply", "print": lambda *a, **k: None}
exec(compile(job["code"], "reply", "exec"), names)
for line in job["asserts"]:
    if not eval(line, names):
        sys.exit(3)
out.write(job["token"])
"""


def function(reply: str, name: str) -> str | None:
    """The code of a reply that defines this function: its last code block that does, or else the whole reply."""
    for code in [*reversed(_FENCE.findall(reply)), reply]:
        tree = _parsed(code)
        if tree and any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body):
            return str(code)
    return None


def refused(code: str) -> str | None:
    """Why code is not run: the first thing in it that reaches beyond computing. None if there is nothing."""
    tree = _parsed(code)
    if tree is None:
        return "it is not Python"
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names if alias.name.split(".")[0] not in _MODULES]
        elif isinstance(node, ast.ImportFrom):
            inside = (node.module or ".").split(".")[0] in _MODULES and not node.level
            names = [a.name for a in node.names if not inside or a.name == "*" or _reaches(a.name)]
        elif isinstance(node, ast.Name):
            names = [node.id] if node.id in _BUILTINS or node.id.startswith("__") else []
        elif isinstance(node, ast.Attribute):
            names = [node.attr] if _reaches(node.attr) else []
        elif isinstance(node, ast.MatchClass):
            names = [name for name in node.kwd_attrs if _reaches(name)]
        if names:
            return f"it reaches for {names[0]!r}"
    return None


def run(reply: str, name: str, asserts: Sequence[str]) -> Outcome:
    """Whether the function that a reply defines holds what is asserted of it."""
    code = function(reply, name)
    if code is None:
        return "no function"
    if refused(code):
        return "not run"
    # Known to nobody who wrote the code: ending early is not passing.
    token = secrets.token_hex(16)
    job = json.dumps({"code": code, "asserts": list(asserts), "token": token})
    with tempfile.TemporaryDirectory(prefix="charforge-code-") as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", _CHILD],
                input=job.encode(),
                capture_output=True,
                cwd=folder,
                env={},
                timeout=TIMEOUT,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            return "timeout"
    if done.returncode in (-signal.SIGKILL, -signal.SIGXCPU):
        return "timeout"
    return "passed" if done.returncode == 0 and done.stdout.decode(errors="replace") == token else "failed"


def _reaches(name: str) -> bool:
    return bool(_INSIDES.match(name)) or name in _MODULE_LIKE or name in _REACHING


def _parsed(code: str) -> ast.Module | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
