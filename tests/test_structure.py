"""The design holds: who may import whom, what stays light, and how long things may get."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jinja2
import jinja2.meta
import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "gream").rglob("*.py"))
SYNTHESIS_FILES = sorted((ROOT / "data_synthesis").rglob("*.py"))
PROMPTS = sorted((ROOT / "prompts").rglob("*.jinja"))

# A module may import from its own floor and the floors below it; training and serving share one floor, but
# do not know each other.
FLOORS = [
    ("errors",),
    ("artifacts", "arguments", "devices", "log", "processes", "run_folder", "terminal"),
    ("data",),
    ("semantic_ids",),
    ("language",),
    ("decoding",),
    ("evaluation",),
    ("training", "serving"),
    ("pipeline", "planning", "words", "launch", "cli", "doctor", "__init__", "__main__"),
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
STRANGERS = {("training", "serving"), ("serving", "training")}

# Which modules may name a library that the rest of gream must not depend on.
OWNERS = {
    "trl": ("gream.training.sft_trainer", "gream.training.srpo_trainer", "gream.training.srpo_training"),
    "vllm": ("gream.decoding.vllm_backend", "gream.decoding.vllm_async"),
    "httpx2": ("gream.decoding.openai_engine",),
    "openai": ("data_synthesis.endpoint",),
    "fastapi": ("gream.serving.",),
    "starlette": ("gream.serving.",),
    "uvicorn": ("gream.serving.",),
}

LONGEST_FILE = 300
LONGEST_FUNCTION = 60


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names that a tree imports, inside functions too; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: -node.level]
                base = ".".join([*above, *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def at_module_level(tree: ast.Module) -> ast.Module:
    """The tree without the bodies of its functions."""

    class Shallow(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    return Shallow().visit(tree)


def without_entry_point(tree: ast.Module) -> ast.Module:
    """The tree without `if __name__ == "__main__":`, where a stage hands itself to the command line."""
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "__main__" in ast.unparse(node.test))
    ]
    return tree


def forbidden(module: str, source: str) -> list[str]:
    """What `module` imports although its room must not."""
    room = module.split(".")[1]
    found = []
    for name in imports(without_entry_point(ast.parse(source)), module):
        parts = name.split(".")
        if parts[0] == "gream" and len(parts) > 1 and parts[1] in FLOOR_OF:
            other = parts[1]
            if FLOOR_OF[other] > FLOOR_OF[room] or (room, other) in STRANGERS:
                found.append(f"{module} imports {name}, which is above it or none of its business")
        owners = OWNERS.get(parts[0])
        if owners and not any(module == o or (o.endswith(".") and module.startswith(o)) for o in owners):
            found.append(f"{module} imports {name}, which belongs to {', '.join(owners)}")
    top = imports(at_module_level(ast.parse(source)), module)
    found += [f"{module} imports {name} at module level" for name in top if name.startswith("data_synthesis")]
    return found


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_module_imports_only_from_below(path):
    module = module_name(path)
    assert module.split(".")[1] in FLOOR_OF, f"{module} has no floor yet; give it one in FLOORS"
    assert forbidden(module, path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gream.data.store", "from gream.language import vocab"),
        ("gream.data.store", "from gream import decoding"),
        ("gream.data.store", "from ..language.vocab import load_model"),
        ("gream.serving.api", "import gream.training.sft"),
        ("gream.training.prm", "def late():\n    from gream.serving import app"),
        ("gream.training.prm", "import trl"),
        ("gream.training.completions", "def late():\n    from vllm import LLM"),
        ("gream.cli", "import fastapi"),
        ("gream.cli", "def late():\n    import openai"),
        ("gream.decoding.replicas", "import httpx2"),
        ("gream.errors", "from gream import artifacts"),
        ("gream.cli", "from data_synthesis import traces"),
    ],
)
def test_a_wrong_import_would_be_found(module, source):
    assert len(forbidden(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gream.data.store", "from gream import artifacts\nfrom gream.errors import InputError"),
        ("gream.training.srpo_trainer", "from trl import GRPOTrainer\nfrom gream.evaluation import metrics"),
        ("gream.serving.api", "import fastapi\nfrom gream.decoding import recommend"),
        ("gream.serving.api", "import gream"),
        ("gream.training.sft", "if __name__ == '__main__':\n    from gream.cli import run_module"),
        ("gream.cli", "def late():\n    from data_synthesis import traces"),
    ],
)
def test_a_right_import_is_let_pass(module, source):
    assert forbidden(module, source) == []


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


HEAVY = "{'torch', 'transformers', 'trl', 'vllm', 'fastapi', 'polars', 'sklearn'} & set(sys.modules)"


def test_importing_gream_imports_nothing_heavy():
    done = run_python(f"import sys, gream; print({HEAVY})")
    assert (done.stdout.strip(), done.returncode) == ("set()", 0), done.stderr


def test_the_commands_help_imports_nothing_heavy():
    code = f"""
import sys
from gream.cli import main
try:
    code = main(["--help"])
except SystemExit as left:
    code = left.code
print({HEAVY}, code or 0)
"""
    done = run_python(code)
    assert "usage" in done.stdout.lower(), done.stderr
    assert done.stdout.strip().splitlines()[-1] == "set() 0", done.stderr


def test_there_are_prompts():
    assert PROMPTS


@pytest.mark.parametrize("path", PROMPTS, ids=lambda path: path.name)
def test_a_prompt_begins_with_a_comment_that_lists_its_variables(path):
    source = path.read_text()
    comment = re.match(r"\{#(.*?)#\}", source, re.DOTALL)
    assert comment, "the file must begin with a comment {# ... #}"
    used = jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(source))
    missing = {name for name in used if not re.search(rf"\b{name}\b", comment[1])}
    assert not missing


@pytest.mark.parametrize("path", FILES + SYNTHESIS_FILES, ids=module_name)
def test_files_and_functions_stay_short(path):
    source = path.read_text()
    assert len(source.splitlines()) <= LONGEST_FILE
    too_long = {
        node.name: length
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := node.end_lineno - node.lineno + 1) > LONGEST_FUNCTION
    }
    assert not too_long
