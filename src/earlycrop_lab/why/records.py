"""How answers are kept: records with the environment, and figures beside them."""

import ast
import json
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from earlycrop.files import replacing
from earlycrop.report import plain
from earlycrop_lab.measure.hardware import environment
from earlycrop_lab.tasks import TASKS, described
from earlycrop_lab.tasks.description import Description

RECORDS = "records.json"


def before(folder: Path, d: Description, again: bool, name: str) -> list[dict[str, Any]]:
    """The records of an earlier call, which need not be computed again.

    Raises:
        ValueError: The records answer a question about another description.
    """
    path = folder / RECORDS
    if again or not path.exists():
        return []
    stored = json.loads(path.read_text(encoding="utf-8"))
    if asked(stored["asked"]) != d:
        raise ValueError(
            f"{path} is about {stored['asked']}, and the question now is about {d!r}: name another folder with "
            "--out, or start over with --again."
        )
    return stored[name]


def asked(source: str) -> Description:
    """The description that records are about, from its source code, none of which is executed.

    Options that an older version did not have yet: see `described`.

    Raises:
        ValueError: It is no description.
    """
    kinds = {task.description.__name__: name for name, task in TASKS.items()}
    problem: Exception | None = None
    try:
        match ast.parse(source, mode="eval").body:
            case ast.Call(func=ast.Name(id=name), keywords=keywords) if name in kinds:
                return described(kinds[name], {str(each.arg): ast.literal_eval(each.value) for each in keywords})
    except (SyntaxError, TypeError, ValueError) as error:
        problem = error
    raise ValueError(f"{source!r} is no description that this version knows") from problem


def keep(folder: Path, records: dict[str, Any], device: str) -> None:
    """Write the records and the environment into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    where = environment(torch.device(device))
    text = json.dumps(plain(_records({**records, "environment": where})), separators=(",", ":"), allow_nan=False)
    with replacing(folder / RECORDS) as file:
        file.write(text.encode())


def answer(folder: Path, figures: dict[str, Figure], say: Callable[[str], None]) -> int:
    """Write the figures as PNG and SVG beside the records, and print all paths."""
    paths = [path for name in (RECORDS, "table.md") if (path := folder / name).exists()]
    for name, figure in figures.items():
        for kind in ("png", "svg"):
            with replacing(folder / f"{name}.{kind}") as file:
                figure.savefig(file, format=kind, dpi=150)
            paths.append(folder / f"{name}.{kind}")
    for path in paths:
        say(str(path))
    return 0


def _records(value: Any) -> Any:
    """A value with all dataclasses in it as dictionaries, at any depth."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, dict):
        return {str(key): _records(one) for key, one in value.items()}
    return [_records(one) for one in value] if isinstance(value, list | tuple) else value
