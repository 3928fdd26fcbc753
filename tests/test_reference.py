"""Every public name says what it takes, and which errors it raises."""

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

import earlycrop

sys.path.insert(0, str(Path(__file__).parents[1] / ".ci"))
import reference

ROUTINE = (type(lambda: None), property, classmethod, staticmethod)


def public() -> dict[str, Any]:
    """By its dotted name, each public class and function, and the public members of classes."""
    found = {}
    for path in (path for module in dict.fromkeys(reference.modules()) for path in reference.names(module)):
        module, name = path.rsplit(".", 1)
        thing = getattr(importlib.import_module(module), name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            found[path] = thing
        if inspect.isclass(thing):
            own = {name: each for name, each in vars(thing).items() if not name.startswith("_")}
            found |= {f"{path}.{name}": each for name, each in own.items() if isinstance(each, ROUTINE)}
    return found


PUBLIC = public()


def text(name: str) -> str:
    """The docstring of a public name, and of what it overrides."""
    thing = PUBLIC[name]
    parent, _, method = name.rpartition(".")
    owner = PUBLIC.get(parent)
    bases = owner.__mro__[1:] if inspect.isclass(owner) else ()
    texts = [inspect.getdoc(thing), *(inspect.getdoc(vars(base)[method]) for base in bases if method in vars(base))]
    return "\n".join(each for each in texts if each)


def others_hook(name: str) -> bool:
    """Whether another library calls it, with arguments that are described there."""
    parent, _, method = name.rpartition(".")
    owner = PUBLIC.get(parent)
    bases = owner.__mro__[1:-1] if inspect.isclass(owner) else ()
    return any(method in vars(base) and not base.__module__.startswith("earlycrop") for base in bases)


def raised(thing: Any) -> Iterator[str]:
    """The names of the errors that a function raises itself."""
    source = inspect.getsource(thing)
    for node in ast.walk(ast.parse(f"if True:\n{source}" if source.startswith(" ") else source)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            yield node.exc.func.id


def test_the_package_imports_each_name_when_it_is_asked_for_and_pytorch_not_before():
    script = "import sys, earlycrop; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
    assert all(getattr(earlycrop, name) is not None for name in earlycrop.__all__)
    assert set(dir(earlycrop)) >= {*earlycrop.__all__, "structure"}
    with pytest.raises(AttributeError, match="has no attribute 'Prunner'"):
        _ = earlycrop.Prunner


def test_there_are_many():
    assert len(PUBLIC) > 200


@pytest.mark.parametrize("name", PUBLIC)
def test_it_has_a_docstring(name):
    assert len(text(name).split()) >= 3


@pytest.mark.parametrize("name", [name for name, thing in PUBLIC.items() if inspect.isfunction(thing)])
def test_a_function_describes_its_arguments_and_its_errors(name):
    takes = [each for each in inspect.signature(PUBLIC[name]).parameters if each not in ("self", "cls")]
    if len(takes) > 1 and not others_hook(name):
        assert "Args:" in text(name)
        assert [each for each in takes if f"{each}:" not in text(name)] == []
    errors = {error for error in raised(PUBLIC[name]) if not error.startswith("_")}
    assert not errors or "Raises:" in text(name), errors


@pytest.mark.parametrize("name", [name for name, thing in PUBLIC.items() if is_dataclass(thing)])
def test_a_dataclass_describes_its_fields(name):
    own = [field.name for field in fields(PUBLIC[name]) if field.name in vars(PUBLIC[name]).get("__annotations__", {})]
    assert [field for field in own if f"{field}:" not in text(name)] == []
