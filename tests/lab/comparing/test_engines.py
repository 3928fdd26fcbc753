"""Engines: every piece once, side by side, stopped when nobody waits."""

import re
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from csv import DictReader
from importlib.util import find_spec
from pathlib import Path

import pytest

from earlycrop_lab.checkpoints import CHECKPOINT
from earlycrop_lab.comparing import engines
from earlycrop_lab.comparing.engines import Local, Ray
from earlycrop_lab.runs import read

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not here: pip install ray")


def collected(engine, work, pieces):
    with closing(engine.each(work, pieces)) as ended:
        return dict(filter(None, ended))


def test_every_piece_comes_back_with_what_was_made_of_it():
    assert collected(Local(), lambda piece, stopped: 2 * piece, [3, 1, 2]) == {1: 2, 2: 4, 3: 6}
    assert collected(Local(), lambda piece, stopped: piece, []) == {}


def test_one_worker_does_one_piece_at_a_time_in_their_order():
    begun = []
    collected(Local(), lambda piece, stopped: begun.append(piece), [3, 1, 2])
    assert begun == [3, 1, 2]


def test_workers_work_side_by_side():
    meeting = threading.Barrier(2, timeout=30)  # breaks unless both are there at once
    assert collected(Local(2), lambda piece, stopped: meeting.wait() >= 0, "ab") == {"a": True, "b": True}


def test_who_waits_is_given_none_while_nothing_ends(monkeypatch):
    monkeypatch.setattr(engines, "PAUSE", 0.01)
    go_on = threading.Event()
    with closing(Local().each(lambda piece, stopped: go_on.wait(30), ["a"])) as ended:
        assert next(ended) is None
        go_on.set()
        assert list(filter(None, ended)) == [("a", True)]


def test_when_nobody_waits_what_is_at_work_is_stopped_and_the_rest_never_begins():
    begun, left = [], []

    def work(piece, stopped):
        begun.append(piece)
        while not stopped():
            time.sleep(0.01)
        left.append(piece)

    with closing(Local().each(work, ["a", "b"])) as ended:
        assert next(ended) is None
    assert begun == left == ["a"]


def test_an_error_of_the_work_comes_out():
    with pytest.raises(ZeroDivisionError):
        collected(Local(), lambda piece, stopped: 1 / piece, [0])


def test_without_ray_its_engine_says_what_to_install(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs Ray: `pip install ray`"):
        Ray()


@needs_ray
@pytest.mark.parametrize("wanted", [{"cpus": 8}, {"gpus": 2}, {"cpus": 4, "gpus": 1}])
def test_a_run_that_no_machine_of_a_cluster_can_hold_is_refused(wanted):
    """Eight CPUs and two GPUs in all, but not on one machine."""
    machines = [{"CPU": 4.0}, {"CPU": 4.0}, {"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}]
    Ray(cpus=4)._check(machines)
    Ray(cpus=2, gpus=0.5)._check(machines)
    with pytest.raises(ValueError, match=r"have 2 CPUs and 1 GPUs, 4 CPUs and 0 GPUs, so none could ever start"):
        Ray(**wanted)._check(machines)


def test_nothing_of_ray_is_loaded_unless_it_is_used():
    code = "import sys, earlycrop_lab.cli; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


GRID = [
    *("--methods", "dense", "snip", "crop-s", "earlycrop-u", "--sparsities", "0.6"),
    *("--width=8", "--epochs=12", "--train-size=640", "--cpus-per-run=1"),
]


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "earlycrop_lab", "compare", *GRID, f"--out={out}", *more]


def numbers(out: Path) -> list[dict[str, str]]:
    """The table, but for what the clock and the power meter said."""
    timed = ("seconds", "grams_co2", "kwh", "conditions")
    with (out / "table.csv").open() as file:
        return [{k: v for k, v in row.items() if not any(word in k for word in timed)} for row in DictReader(file)]


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> list[dict[str, str]]:
    out = tmp_path_factory.mktemp("local")
    subprocess.run(command(out), check=True, capture_output=True)
    return numbers(out)


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_ray_cluster_of_two_workers_gives_the_same_table_as_one_process(local, tmp_path):
    on_ray = command(tmp_path, "--engine=ray", "--workers=2")
    done = subprocess.run(on_ray, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["method"] for row in local] == ["dense", "crop-s", "snip", "earlycrop-u"]
    assert float(local[0]["test_accuracy_mean"]) > 0.5  # chance is 0.1
    assert numbers(tmp_path) == local
    results = [read(path.parent) for path in tmp_path.glob("*/result.json")]
    assert {result.environment["threads"] for result in results} == {1}


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_whose_ray_worker_is_killed_is_taken_up_again_and_nothing_is_lost(local, tmp_path):
    psutil = pytest.importorskip("psutil")
    on_ray = command(tmp_path, "--engine=ray", "--workers=2")
    running = subprocess.Popen(on_ray, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (kept := list(tmp_path.glob(f"*/{CHECKPOINT}"))):
        assert running.poll() is None, running.communicate()[0]
        time.sleep(0.02)
    for process in psutil.Process(running.pid).children(recursive=True):
        with suppress(psutil.Error):
            if f'"method": "{METHOD.search(kept[0].parent.name)[0]}"' in process.cmdline()[-1]:
                process.parent().kill()  # the worker; the run's own process leaves by itself
    said, _ = running.communicate()
    assert running.returncode == 0, said
    assert read(kept[0].parent).columns.attempts == 2
    assert numbers(tmp_path) == local


METHOD = re.compile("dense|snip|crop-s|earlycrop-u")
