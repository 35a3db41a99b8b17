"""The layer table of docs/architecture.md, enforced: a module may use the rows above its own, never below."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cadence

ROOT = Path(cadence.__file__).parent

# module (or package) -> row; a package's entry covers everything in it
LAYER = {
    "types": 0,
    "errors": 0,
    "tokens": 0,
    "metrics": 0,
    "engine_base": 0,
    "config": 1,
    "deploy": 1,
    "audio": 1,
    "prompt": 1,
    "router": 1,
    "interleave": 1,
    "text": 1,
    "hub": 1,
    "voices": 1,
    "models": 2,
    "thinker": 3,
    "token2wav": 3,
    "runtime": 4,
    "answers": 4,
    "engine": 4,
    "fake": 4,
    "fake_answer": 4,
    "server": 5,
    "cli": 5,
    "doctor": 5,
    "bench": 6,
}
# rows that may not be used although they stand above: stages know nothing of each other, edges reach
# models and stages only through the engine
ALLOWED = {
    "models": {"types", "errors", "tokens", "audio", "models"},
    "server": {"types", "errors", "tokens", "metrics", "engine_base", "server"}
    | {"config", "deploy", "audio", "prompt", "router", "text", "hub", "voices", "engine", "runtime", "fake"},
    "bench": {"types", "errors", "bench"},
}
NEVER = {("thinker", "token2wav"), ("token2wav", "thinker")}
# `cadence serve` without a model may write the sample checkpoint, the doctor exists to run the models,
# and both edges offer each other's commands; the benchmarks of a stage run it without a server
EXTRA = {("cli", "models.sample"), ("cli", "bench"), ("cli", "doctor")} | {
    ("bench", part) for part in ("config", "models", "token2wav")
}
TORCH_FREE = [
    "cadence",
    "cadence.cli",
    "cadence.bench",
    "cadence.engine",
    "cadence.fake",
    "cadence.doctor",
    "cadence.server.app",
]


def _modules() -> list[tuple[str, Path]]:
    """(dotted name below cadence, file) of every module, package markers included."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name and name != "__main__":
            found.append((name, path))
    return found


def _imports(path: Path, package: str) -> set[str]:
    """Dotted names of all imports, at any depth of the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; {package} should name cadence in full"
            base = node.module or ""
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def _violations(name: str, path: Path) -> list[str]:
    top = name.split(".")[0]
    found = []
    for target in sorted(_imports(path, top)):
        parts = target.split(".")
        if parts[0] != "cadence" or len(parts) < 2 or parts[1] == "__version__":
            continue
        other = parts[1]
        if other not in LAYER:
            found.append(f"{name} imports {target}, which has no row in the table")
            continue
        if any(top == a and ".".join(parts[1:]).startswith(b) for a, b in EXTRA):
            continue
        allowed = other in ALLOWED[top] if top in ALLOWED else LAYER[other] <= LAYER[top]
        if not allowed or (top, other) in NEVER:
            found.append(f"{name} (row {LAYER[top]}) imports {target} (row {LAYER[other]})")
    return found


def test_every_module_has_a_row() -> None:
    assert sorted({n.split(".")[0] for n, _ in _modules()} - LAYER.keys() - {"nano"}) == []


def test_imports_point_upwards_only() -> None:
    assert [
        v for name, path in _modules() if name.split(".")[0] in LAYER for v in _violations(name, path)
    ] == []


@pytest.mark.parametrize("top", ["types", "errors", "tokens", "engine_base"])
def test_nouns_use_the_standard_library_only(top: str) -> None:
    foreign = {
        root
        for target in _imports(ROOT / f"{top}.py", top)
        if (root := target.split(".")[0]) not in sys.stdlib_module_names | {"cadence"}
    }
    # types.py names numpy's array type for the type checker
    assert foreign <= ({"numpy"} if top == "types" else set())


def test_policies_hold_no_tensors() -> None:
    for name in ("thinker.scheduler", "token2wav.scheduler", "router"):
        path = ROOT / Path(*name.split(".")).with_suffix(".py")
        assert "torch" not in {t.split(".")[0] for t in _imports(path, name)}, name


@pytest.mark.parametrize("module", TORCH_FREE)
def test_edges_do_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
