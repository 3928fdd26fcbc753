"""One frozen description, one folder, one result.

A folder is named from its description, of which only what differs from the usual counts, so nobody names experiments
and a new option leaves old results valid. A run whose result exists is not run again. `result.json` is written last
and at once: a folder without it is a run that was cut off, and is begun anew.
"""

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import earlycrop
from earlycrop.errors import nearest
from earlycrop_lab.measure.emissions import COUNTRY, Emissions
from earlycrop_lab.measure.hardware import environment, load
from earlycrop_lab.measure.memory import process_peak_bytes
from earlycrop_lab.measure.record import Columns, Epoch
from earlycrop_lab.tasks.classification import Classification, train
from earlycrop_lab.tasks.progress import Progress

RESULT, MODEL = "result.json", "model.safetensors"


def folder_name(description: Classification) -> str:
    """The name of a run's folder: what it is, what differs from the usual, the seed.

    >>> folder_name(Classification(data="digits", epochs=12))
    'digits-resnet18-earlycrop-s-0.95-epochs12-seed0'
    """
    usual = description.usual()
    differing = [
        f"{each.metadata['tag']}{_plain(getattr(description, each.name))}"
        for each in fields(description)
        if each.metadata["tag"] is not None and getattr(description, each.name) != getattr(usual, each.name)
    ]
    return "-".join([*(_plain(part) for part in description.head), *differing, f"seed{description.seed}"])


def _plain(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", repr(value) if isinstance(value, float) else str(value)).strip("_")


@dataclass(frozen=True)
class Result:
    """Everything that a run leaves, as `result.json` holds it.

    Args:
        description: What was asked.
        environment: On what it ran: versions, commit, hardware, threads, load; when.
        epochs: Every epoch's numbers.
        report: What was cut, why and when, and what the detector saw; None for dense.
        columns: The columns of the poster.
        emissions: Whose electricity, which PUE, and whether power was measured or assumed.
    """

    description: Classification
    environment: dict[str, Any]
    epochs: list[Epoch]
    report: dict[str, Any] | None
    columns: Columns
    emissions: Emissions

    def as_dict(self) -> dict[str, Any]:
        """The same, JSON-ready; `repr` is the description as Python source."""
        return {"repr": repr(self.description), **asdict(self)}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Result":
        """What `as_dict` gave; fields that a newer version has added are at their defaults."""
        return cls(
            description=Classification(**stored["description"]),
            environment=stored["environment"],
            epochs=[Epoch(**each) for each in stored["epochs"]],
            report=stored["report"],
            columns=Columns(**stored["columns"]),
            emissions=Emissions(**stored["emissions"]),
        )


def run(
    description: Classification,
    out: Path,
    *,
    root: str | None = None,
    device: str = "cpu",
    country: str = COUNTRY,
    pue: float = 1.0,
    again: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """The result of a description: read if its folder under `out` has it, else trained, measured and kept there.

    Args:
        description: What to run.
        out: Where the folders of runs are.
        root: Where the data set lies.
        device: Where to train.
        country: Whose electricity mix counts.
        pue: Power usage effectiveness of the site.
        again: Run it even if its result exists.
        progress: Who watches it train.
        say: Told in a sentence what is done.

    Raises:
        ValueError: If the folder holds the result of another description, or training cannot be done as described.
        OSError: If data or folder cannot be read or written.
    """
    folder = out / folder_name(description)
    if (folder / RESULT).exists() and not again:
        found = read(folder)
        if found.description != description:
            raise ValueError(
                f"{folder} holds the result of another description: {found.description}. "
                "The usual settings have changed since; keep it elsewhere, or train anew with --again."
            )
        say(f"{folder} has its result already; it is not run again (--again does).")
        return found

    folder.mkdir(parents=True, exist_ok=True)
    where = {**environment(torch.device(device)), "started": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        outcome = train(description, root=root, device=device, country=country, pue=pue, progress=progress)
    except BaseException:
        with suppress(OSError):  # not empty: an older result stays
            folder.rmdir()
        raise
    where["load_after"] = load()

    begun = folder / f".{MODEL}"
    columns = replace(
        outcome.columns, disk_bytes=earlycrop.save(outcome.model, begun), process_bytes=process_peak_bytes()
    )
    report = outcome.report.as_dict() if outcome.report else None
    result = Result(description, where, outcome.epochs, report, columns, outcome.emissions)
    os.replace(begun, folder / MODEL)
    write(result, folder)
    return result


def write(result: Result, folder: Path) -> None:
    """Put the result into its folder, whole or not at all."""
    begun = folder / f".{RESULT}"
    begun.write_text(json.dumps(result.as_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(begun, folder / RESULT)


def read(folder: Path) -> Result:
    """The result in a folder.

    Raises:
        ValueError: If it cannot be understood.
        OSError: If it cannot be read.
    """
    path = folder / RESULT
    try:
        return Result.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no result of this laboratory ({type(error).__name__}: {error}).") from error


def find(name: str, out: Path) -> Path:
    """The folder of a run, from its path, its name, or any beginning of the name that only one has.

    Raises:
        ValueError: If none or several are meant; it names the nearest.
    """
    if (Path(name) / RESULT).exists():
        return Path(name)
    runs = sorted(path.parent for path in out.glob(f"*/{RESULT}"))
    if not runs:
        raise ValueError(f"There is no finished run in {out}. `earlycrop train` makes one; --out says where they are.")
    names = [path.name for path in runs]
    if name in names:
        return out / name
    meant = [each for each in names if each.startswith(name)]
    if len(meant) == 1:
        return out / meant[0]
    if meant:
        raise ValueError(f"{name!r} could be any of {', '.join(meant)}.")
    raise ValueError(f"No run is called {name!r}. Did you mean {nearest(name, names)!r}?")


def twin(description: Classification, out: Path) -> Result | None:
    """The dense run with the same training, if it is there."""
    folder = out / folder_name(description.dense_twin())
    return read(folder) if (folder / RESULT).exists() else None
