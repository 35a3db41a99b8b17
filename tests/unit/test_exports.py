"""The public names: complete, importable, and nothing public by accident."""

from __future__ import annotations

import subprocess
import sys

import pytest

import cadence


@pytest.mark.parametrize("name", cadence.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(cadence, name) is not None


def test_unknown_names_raise_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Enigne'"):
        _ = cadence.Enigne


def test_type_checkers_and_runtime_see_the_same_names() -> None:
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(cadence))
    blocks = [n for n in tree.body if isinstance(n, ast.If)]
    typed = {a.asname for b in blocks for n in b.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert typed | {"__version__"} == set(cadence.__all__)


def test_import_alone_loads_no_heavy_module() -> None:
    heavy = "{'torch', 'numpy', 'fastapi', 'onnxruntime', 'av'}"
    code = f"import sys, cadence; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
