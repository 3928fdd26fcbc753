"""One frozen description, one folder, one result.

A folder is named after its description, of which only what differs from the usual appears, so nobody has to name
experiments, and a new option leaves old results valid. A run whose result exists is not run again. `result.json` is
written last, and atomically: a folder without it is an interrupted run, which resumes from its last checkpoint. Results
can also be packed: `runs.jsonl` beside the folders has one of them in each line, and stands for folders that are gone.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from functools import lru_cache
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
from earlycrop_lab.tasks.session import MEASURED, Trained

RESULT, MODEL, FAILURE, SAMPLES = "result.json", "model.safetensors", "failure.json", "samples.safetensors"
PACKED = "runs.jsonl"
"""The packed results of runs, in the folder where their own folders would be."""
EARLIER = "result-before.json"
"""The previous result of a run that was started over, until the new one is written."""


def folder_name(description: Description) -> str:
    """The name of a run's folder: what it is, what differs from the usual, the seed.

    >>> from earlycrop_lab.tasks.classification import Classification
    >>> folder_name(Classification(data="digits", epochs=12))
    'digits-resnet18-earlycrop-s-0.95-epochs12-seed0'
    """
    return "-".join([*map(plain, description.head), *differing(description), f"seed{description.seed}"])


def differing(description: Description) -> list[str]:
    """The parts of a folder's name that say what differs from the usual."""
    usual = description.usual()
    return [
        f"{each.metadata['tag']}{plain(getattr(description, each.name))}"
        for each in fields(description)
        if each.metadata["tag"] is not None and getattr(description, each.name) != getattr(usual, each.name)
    ]


def plain(value: Any) -> str:
    """A value as a part of a folder's name: what is no letter, digit, dot, dash or underscore is an underscore."""
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
    there = has_result(folder)
    ranks.first(there)
    if there:
        return _finished(description, folder, say)
    where = {**environment(torch.device(device)), "started": datetime.now(UTC).isoformat(timespec="seconds")}
    about = {**where, "country": country, "pue": pue}
    kept = Checkpoints(folder, of=repr(description), about=about, every=checkpoint_every, ranks=ranks)
    around: dict[str, Any] = {"root": root, "device": device, "country": country, "pue": pue, "ranks": ranks}
    with kept as checkpoints:
        where["started"] = kept.about["started"]
        _compare(where, kept.about, about, say)
        try:
            trained = train(description, progress=progress, checkpoints=checkpoints, **around)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_left(kept.done, description.total_epochs)) from None
        where["load_after"] = load()
        result = _kept(description, where, trained, kept, folder)
        (folder / EARLIER).unlink(missing_ok=True)
        kept.discard()
    return result


def _compare(
    where: dict[str, Any], began: Mapping[str, Any], now: Mapping[str, Any], say: Callable[[str], None]
) -> None:
    """Note in `where`, and say, what is not as it was when the run began."""
    changed = {name: began.get(name) for name in DECIDING if began.get(name) != now[name]}
    if changed:
        say(f"The run began with different {' and '.join(changed)}: its numbers may differ in their last digits.")
    unlike = {name: began[name] for name in ELECTRICITY if name in began and began[name] != now[name]}
    if unlike:
        say(f"The run began with different {' and '.join(unlike)}: its energy or emissions mix both.")
    if changed or unlike:
        where["changed_from"] = {**changed, **unlike}


def _finished(description: Description, folder: Path, say: Callable[[str], None]) -> Result:
    """The result in the folder, if it belongs to the description."""
    found = read(folder)
    if found.description != description:
        named = folder_name(found.description) == folder.name
        why = "Both are called so: give this one another --out" if named else "The usual settings have changed since"
        raise ValueError(
            f"{folder} holds the result of another description: {found.description}. "
            f"{why}; keep it elsewhere, or train again with --again."
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
        if any(folder.name in _packed(out) for folder in folders):
            held.enter_context(alone(out))
        for folder, of in folders.items():
            Checkpoints(folder, of).discard()
            (folder / MEASURED).unlink(missing_ok=True)
            if (folder / RESULT).exists():
                os.replace(folder / RESULT, folder / EARLIER)
        packed = dict(_packed(out))
        for folder in [folder for folder in folders if folder.name in packed]:
            (folder / EARLIER).write_text(json.dumps(packed.pop(folder.name)), encoding="utf-8")
        if packed.keys() != _packed(out).keys():
            _write_packed(packed, out)


def follow(description: Description, *, ranks: Ranks, root: str | None = None, device: str = "cpu") -> None:
    """Train another rank's part while the first rank calls `run`, unless the result exists already."""
    if not ranks.first(False):
        train(description, root=root, device=device, checkpoints=Followed(ranks), ranks=ranks)


DECIDING = ("packages", "commit", "device", "cpu", "threads", "ranks")
"""The parts of the environment that may change the last bits of a result."""
ELECTRICITY = ("country", "pue")
"""What emissions depend on, besides."""


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
    """The result in a folder; or, if that is gone, the one that was packed.

    Raises:
        ValueError: The file is not a result of this laboratory.
        OSError: The file cannot be read.
    """
    path = folder / RESULT
    packed = None if path.exists() else _packed(folder.parent).get(folder.name)
    try:
        return Result.from_dict(json.loads(path.read_text(encoding="utf-8")) if packed is None else packed)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no result of this laboratory ({type(error).__name__}: {error}).") from error


def has_result(folder: Path) -> bool:
    """Whether a run has a result, in its folder or packed."""
    return (folder / RESULT).exists() or folder.name in _packed(folder.parent)


def finished(out: Path) -> list[Path]:
    """The folders of all runs under `out` that have a result, by name; of packed runs, where their folders would be."""
    return sorted({path.parent for path in out.glob(f"*/{RESULT}")} | {out / name for name in _packed(out)})


def once(found: Mapping[Path, Result]) -> tuple[list[Result], dict[str, str]]:
    """The results of folders, each run once, and for each folder that is another's copy, by name, a sentence.

    Of several folders with the same description and seed, the one that is called so counts; otherwise the first.
    """
    counted: dict[Description, Path] = {}
    for folder, result in found.items():
        if result.description not in counted or folder.name == folder_name(result.description):
            counted[result.description] = folder
    copies = {
        folder.name: f"is another result of the same run as {counted[result.description].name}, and is left out"
        for folder, result in found.items()
        if counted[result.description] != folder
    }
    return [result for folder, result in found.items() if counted[result.description] == folder], copies


def pack(out: Path, into: Path) -> int:
    """Add the results of a folder of runs to the packed results of another folder; what `out` holds stays as it is.

    Args:
        out: The folder of runs.
        into: The folder whose `runs.jsonl` receives them; a result that it has already is replaced by that of `out`.

    Returns:
        The number of results that are packed there now.

    Raises:
        ValueError: A file is not a result of this laboratory, or another process is packing there.
        OSError: A file cannot be read or written.
    """
    with alone(into):
        together = _packed(into) | {folder.name: read(folder).as_dict() for folder in finished(out)}
        _write_packed(together, into)
    return len(together)


NAME = "run"
"""The key of a packed result's name."""


def _write_packed(results: Mapping[str, dict[str, Any]], out: Path) -> None:
    """Write packed results, by name, a line each."""
    with replacing(out / PACKED) as file:
        for name in sorted(results):
            line = json.dumps({NAME: name, **results[name]}, separators=(",", ":"), allow_nan=False)
            file.write(f"{line}\n".encode())


def _packed(out: Path) -> dict[str, dict[str, Any]]:
    """The packed results by the names of their folders."""
    try:
        state = (out / PACKED).stat()
    except OSError:
        return {}
    return _lines(out / PACKED, (state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=64)
def _lines(path: Path, state: tuple[int, int]) -> dict[str, dict[str, Any]]:
    """The lines of a file of packed results; read again only if its state has changed."""
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            found[record.pop(NAME)] = record
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(
                f"Line {number} of {path} is no packed result ({type(error).__name__}: {error})."
            ) from error
    return found


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
    if has_result(path := Path(name)):
        return path if path.name not in ("", "..") else path.resolve()  # which has a parent, where its twin may be
    runs = finished(out)
    if not runs:
        raise ValueError(
            f"There is no finished run in {out.absolute()}. `earlycrop train` makes one; --out says where they are."
        )
    names = [path.name for path in runs]
    if name in names:
        return out / name
    meant = [each for each in names if each.startswith(name)]
    if len(meant) == 1:
        return out / meant[0]
    if meant:
        raise ValueError(f"{name!r} could be any of {', '.join(meant)} in {out.absolute()}.")
    raise ValueError(
        f"No run in {out.absolute()} is called {name!r}. Did you mean {nearest(name, names)!r}? --out names another "
        "folder."
    )


def samples(description: Description, out: Path) -> dict[str, torch.Tensor]:
    """The predictions for a few samples that a run under `out` kept; empty if it kept none or does not exist."""
    file = out / folder_name(description) / SAMPLES
    return safetensors.torch.load_file(file) if file.exists() else {}


def twin(description: Description, out: Path) -> Result | None:
    """The result of the dense run with the same training, or None if it does not exist."""
    folder = out / folder_name(description.dense_twin())
    return read(folder) if has_result(folder) else None
