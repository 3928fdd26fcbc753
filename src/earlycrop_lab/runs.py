"""One frozen description, one folder, one result.

A folder is named after its description, of which only what differs from the usual appears, so nobody has to name
experiments, and a new option leaves old results valid. A run whose result exists is not run again. `result.json` is
written last, and atomically: a folder without it is an interrupted run, which resumes from its last checkpoint.
"""

import json
import os
import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

import earlycrop
from earlycrop.distributed import ALONE, Ranks
from earlycrop.errors import nearest
from earlycrop.files import replacing
from earlycrop_lab.checkpoints import CHECKPOINT, Checkpoints, Followed, Occupied, alone
from earlycrop_lab.measure.emissions import COUNTRY, Emissions
from earlycrop_lab.measure.hardware import environment, load
from earlycrop_lab.measure.memory import process_peak_bytes
from earlycrop_lab.measure.record import Columns, Epoch
from earlycrop_lab.tasks import described, train
from earlycrop_lab.tasks.description import Description
from earlycrop_lab.tasks.progress import Progress
from earlycrop_lab.tasks.session import Trained

RESULT, MODEL, FAILURE, SAMPLES = "result.json", "model.safetensors", "failure.json", "samples.safetensors"
EARLIER = "result-before.json"
"""The previous result of a run that was started over, until the new one is written."""


def folder_name(description: Description) -> str:
    """The name of a run's folder: what it is, what differs from the usual, the seed.

    >>> from earlycrop_lab.tasks.classification import Classification
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
    """Everything that a run records, as `result.json` holds it.

    Args:
        description: What was run.
        environment: What it ran on, and when: versions, commit, hardware, threads, load.
        epochs: The numbers of every epoch.
        report: What was cut, why and when, and what the detector observed; None for dense runs.
        columns: The columns of the poster.
        emissions: The country's electricity mix, the PUE, and whether power was measured or assumed.
        data: What it was trained and tested on, in words; empty in results of older versions.
    """

    description: Description
    environment: dict[str, Any]
    epochs: list[Epoch]
    report: dict[str, Any] | None
    columns: Columns
    emissions: Emissions
    data: str = ""

    @property
    def figure(self) -> float:
        """The task's main metric after the last epoch."""
        return self.columns.metrics[self.description.metric.name]

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON-ready containers; `repr` is the description as Python source."""
        return {"repr": repr(self.description), "task": self.description.task, **asdict(self)}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Result":
        """The inverse of `as_dict`; fields that newer versions have added get their defaults."""
        return cls(
            description=described(stored["task"], stored["description"]),
            environment=stored["environment"],
            epochs=[Epoch(**each) for each in stored["epochs"]],
            report=stored["report"],
            columns=Columns(**stored["columns"]),
            emissions=Emissions(**stored["emissions"]),
            data=stored.get("data", ""),
        )


def run(
    description: Description,
    out: Path,
    *,
    root: str | None = None,
    device: str = "cpu",
    country: str = COUNTRY,
    pue: float = 1.0,
    checkpoint_every: float = 0.0,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda _: None,
    ranks: Ranks = ALONE,
) -> Result:
    """The result of a description: read if its folder under `out` holds it, else trained, measured and kept there.

    Args:
        description: What to run.
        out: Where the folders of runs are.
        root: The folder of the data sets.
        device: The torch device to train on.
        country: ISO code of the country whose electricity mix counts.
        pue: Power usage effectiveness of the site.
        checkpoint_every: The least number of seconds between two checkpoints, which are made at the end of an epoch
            and after the cut.
        progress: Receives the progress of training.
        say: Called with a sentence about what is being done.
        ranks: The processes that train it together, of which this is the first; the others call `follow`.

    Raises:
        ValueError: The folder holds the result of another description, another process is at work in it, or the
            description cannot be trained.
        KeyboardInterrupt: Interrupted; its message says where the same run would resume.
        OSError: The data or the folder cannot be read or written.
    """
    folder = out / folder_name(description)
    there = (folder / RESULT).exists()
    ranks.first(there)
    if there:
        return _finished(description, folder, say)
    where = {**environment(torch.device(device)), "started": datetime.now(UTC).isoformat(timespec="seconds")}
    kept = Checkpoints(folder, of=repr(description), about=where, every=checkpoint_every, ranks=ranks)
    around: dict[str, Any] = {"root": root, "device": device, "country": country, "pue": pue, "ranks": ranks}
    with kept as checkpoints:
        where["started"] = kept.about["started"]
        changed = {name: kept.about.get(name) for name in DECIDING if kept.about.get(name) != where[name]}
        if changed:
            where["changed_from"] = changed
            say(f"The run began with different {' and '.join(changed)}: its numbers may differ in their last digits.")
        try:
            trained = train(description, progress=progress, checkpoints=checkpoints, **around)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_left(kept.done, description.total_epochs)) from None
        where["load_after"] = load()
        result = _kept(description, where, trained, kept, folder)
        (folder / EARLIER).unlink(missing_ok=True)
        kept.discard()
    return result


def _finished(description: Description, folder: Path, say: Callable[[str], None]) -> Result:
    """The result in the folder, if it belongs to the description."""
    found = read(folder)
    if found.description != description:
        raise ValueError(
            f"{folder} holds the result of another description: {found.description}. "
            "The usual settings have changed since; keep it elsewhere, or train again with --again."
        )
    say(f"{folder} has its result already; it is not run again (--again does).")
    if (folder / CHECKPOINT).exists():  # it was cut off after writing the result
        with suppress(Occupied), Checkpoints(folder, of=repr(description), restart=True):
            pass
    return found


def _kept(description: Description, where: dict[str, Any], trained: Trained, kept: Checkpoints, folder: Path) -> Result:
    """Write what training produced into the run's folder, the result last."""
    emissions = trained.emissions.including(kept.lost_seconds)
    columns = replace(
        trained.columns,
        grams_co2=emissions.grams_co2,
        kwh=emissions.kwh,
        disk_bytes=earlycrop.save(trained.model, folder / MODEL),
        process_bytes=max(kept.process_bytes or 0, process_peak_bytes() or 0) or None,
        attempts=kept.attempts,
        lost_seconds=kept.lost_seconds,
        saving_seconds=kept.saving_seconds,
    )
    if trained.samples:
        with replacing(folder / SAMPLES) as file:
            file.write(safetensors.torch.save(trained.samples))
    report = trained.report.as_dict() if trained.report else None
    result = Result(description, where, trained.epochs, report, columns, emissions, trained.data)
    write(result, folder)
    return result


def start_over(descriptions: Iterable[Description], out: Path) -> None:
    """Delete the runs' checkpoints and set their results aside, so that `run` starts them from the beginning.

    Raises:
        ValueError: Another process is at work in one of the folders; nothing has been changed.
    """
    folders = {out / folder_name(each): repr(each) for each in descriptions}
    with ExitStack() as held:
        for folder in folders:
            held.enter_context(alone(folder))
        for folder, of in folders.items():
            Checkpoints(folder, of).discard()
            if (folder / RESULT).exists():
                os.replace(folder / RESULT, folder / EARLIER)


def follow(description: Description, *, ranks: Ranks, root: str | None = None, device: str = "cpu") -> None:
    """Train another rank's part while the first rank calls `run`, unless the result exists already."""
    if not ranks.first(False):
        train(description, root=root, device=device, checkpoints=Followed(ranks), ranks=ranks)


DECIDING = ("packages", "commit", "device", "cpu", "threads", "ranks")
"""The parts of the environment that may change the last bits of a result."""


def _left(done: int | None, epochs: int) -> str:
    """What an interrupted run still has to do."""
    if done is None:
        return "it has no checkpoint yet and starts over next time"
    return f"the same command goes on with epoch {done + 1} of {epochs}" if done < epochs else "only its end is left"


def write(result: Result, folder: Path) -> None:
    """Write the result into its folder, atomically."""
    text = json.dumps(result.as_dict(), separators=(",", ":"), allow_nan=False) + "\n"
    with replacing(folder / RESULT) as file:
        file.write(text.encode())


def read(folder: Path) -> Result:
    """The result in a folder.

    Raises:
        ValueError: The file is not a result of this laboratory.
        OSError: The file cannot be read.
    """
    path = folder / RESULT
    try:
        return Result.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no result of this laboratory ({type(error).__name__}: {error}).") from error


def failure(folder: Path) -> str | None:
    """Why a run failed; None if it did not fail or has been started again since."""
    try:
        return json.loads((folder / FAILURE).read_text(encoding="utf-8"))["error"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{folder / FAILURE} cannot be read ({type(error).__name__}: {error})"


def find(name: str, out: Path) -> Path:
    """The folder of a run, from its path, its name, or an unambiguous beginning of the name.

    Raises:
        ValueError: No run matches, or several do; the message lists them or suggests the nearest.
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


def samples(description: Description, out: Path) -> dict[str, torch.Tensor]:
    """The predictions for a few samples that a run under `out` kept; empty if it kept none or does not exist."""
    file = out / folder_name(description) / SAMPLES
    return safetensors.torch.load_file(file) if file.exists() else {}


def twin(description: Description, out: Path) -> Result | None:
    """The result of the dense run with the same training, or None if it does not exist."""
    folder = out / folder_name(description.dense_twin())
    return read(folder) if (folder / RESULT).exists() else None
