"""A run that is cut off anywhere goes on to the same numbers; one process at a time; lost time is told apart."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from earlycrop import load_state
from earlycrop_lab import checkpoints as module
from earlycrop_lab.checkpoints import ATTEMPTS, CHECKPOINT, Checkpoints, Occupied


class Counter:
    """A part of a made-up task: it counts, and draws at random."""

    def __init__(self) -> None:
        self.state = {"count": 0, "drawn": []}

    def work(self) -> None:
        drawn = (torch.rand(1).item(), random.random(), float(np.random.rand()))  # noqa: NPY002 - what a task may use
        self.state = {"count": self.state["count"] + 1, "drawn": [*self.state["drawn"], drawn]}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


class Cut(BaseException):
    """In the place of the end of a process."""


def task(folder: Path, epochs: int = 4, stops: float = math.inf, **options) -> tuple[Counter, Checkpoints]:
    """Work for some epochs; stop within one of them, after so many epochs of work in this process."""
    with Checkpoints(folder, of="counting", **options) as checkpoints:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 - what a task may use
        counter = Counter()
        for epoch in range(checkpoints.restore(counter=counter), epochs):
            counter.work()
            stops -= 1
            if stops <= 0:
                raise Cut
            checkpoints.save(epoch + 1)
    return counter, checkpoints


def test_it_goes_on_where_it_was_and_draws_what_it_would_have_drawn(tmp_path):
    whole, alone = task(tmp_path / "whole")
    assert (alone.attempts, alone.lost_seconds, alone.done) == (1, 0.0, 4)
    for _ in range(3):
        with pytest.raises(Cut):
            task(tmp_path / "cut", stops=2)
    found, last = task(tmp_path / "cut")
    assert found.state == whole.state
    assert last.attempts == 4
    assert last.lost_seconds > 0


def test_what_is_done_is_not_done_again(tmp_path):
    task(tmp_path)
    counter, checkpoints = task(tmp_path, stops=1)
    assert counter.state["count"] == 4
    assert checkpoints.done == 4


def test_only_so_often_unless_it_must_be_now(tmp_path):
    with Checkpoints(tmp_path, of="counting", every=1000) as checkpoints:
        checkpoints.restore(counter=Counter())
        checkpoints.save(1)
        assert checkpoints.done is None
        checkpoints.save(2, now=True)
        checkpoints.save(3)
        assert checkpoints.done == load_state(tmp_path / CHECKPOINT)["done"] == 2


def test_starting_over_forgets(tmp_path):
    task(tmp_path)
    with Checkpoints(tmp_path, of="counting", restart=True) as checkpoints:
        assert checkpoints.done is None
        assert checkpoints.restore(counter=Counter()) == 0
        assert checkpoints.attempts == 1


def test_nothing_is_left_of_what_failed_before_its_first_checkpoint(tmp_path):
    with suppress(ValueError), Checkpoints(tmp_path / "run", of="x") as checkpoints:
        checkpoints.restore(counter=Counter())
        assert (tmp_path / "run" / ATTEMPTS).exists()
        raise ValueError
    assert not (tmp_path / "run").exists()


def test_what_was_discarded_leaves_nothing(tmp_path):
    with Checkpoints(tmp_path / "run", of="x") as checkpoints:
        checkpoints.restore(counter=Counter())
        checkpoints.save(1)
        (tmp_path / "run" / f".{CHECKPOINT}.0123abcd.partial").write_bytes(b"of a dead process")
        checkpoints.discard()
    assert not (tmp_path / "run").exists()


# Refusals -----------------------------------------------------------------------------------------------------


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    task(tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(ValueError, match=r"is of another run: counting\. .* --again starts over"):
        Checkpoints(tmp_path, of="something else").__enter__()
    with pytest.raises(ValueError, match=r"does not fit .*KeyError: 'other'.* --again"):  # noqa: SIM117 - one is the test
        with Checkpoints(tmp_path, of="counting") as checkpoints:
            checkpoints.restore(other=Counter())
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert task(tmp_path)[1].done == 4  # and the lock is free again


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:]])
def test_a_damaged_checkpoint_is_refused_and_kept(damage, tmp_path):
    task(tmp_path)
    damaged = damage((tmp_path / CHECKPOINT).read_bytes())
    (tmp_path / CHECKPOINT).write_bytes(damaged)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors.*--again starts over"):
        task(tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == damaged
    assert task(tmp_path, restart=True)[1].attempts == 1


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    code = """
import sys
from pathlib import Path
from earlycrop_lab.checkpoints import Checkpoints
with Checkpoints(Path(sys.argv[1]), of="counting"):
    print("in", flush=True)
    input()
"""
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(Occupied, match=r"Another process is at work in .*run: wait for its result, or stop it"):
            task(tmp_path / "run")
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        assert task(tmp_path / "run")[0].state["count"] == 4


# What is told of the attempts ---------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when it is told to."""
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(module, "BEAT", 1e9)

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


def attempt(folder: Path, clock, setting_up: float, *epochs: float, dies_after: float | None = None) -> Checkpoints:
    """Take that long to set up and for each epoch, then die (what it noted last is of that moment) or end."""
    try:
        with Checkpoints(folder, of="timed") as checkpoints:
            clock(setting_up)
            done = checkpoints.restore(counter=Counter())
            for number, seconds in enumerate(epochs):
                clock(seconds)
                checkpoints.save(done + number + 1)
            if dies_after is not None:
                clock(dies_after)
                raise Cut
    except Cut:
        pass
    return checkpoints


def test_lost_time_is_what_no_checkpoint_holds_and_setting_up_again(tmp_path, clock):
    attempt(tmp_path, clock, 3, dies_after=4)  # lost: 7, before its first checkpoint
    attempt(tmp_path, clock, 5, 10, 10, dies_after=6)  # lost: 5 and 6
    attempt(tmp_path, clock, 2, dies_after=1)  # lost: all 3 of it
    last = attempt(tmp_path, clock, 1, 10)  # lost: 1
    assert last.attempts == 4
    assert last.lost_seconds == pytest.approx(7 + 11 + 3 + 1)
    assert load_state(tmp_path / CHECKPOINT)["done"] == 3


def test_a_note_older_than_the_checkpoint_counts_for_nothing(tmp_path, clock):
    """The process died between writing one and writing the other."""
    attempt(tmp_path, clock, 0, 10, dies_after=9)
    note = (tmp_path / ATTEMPTS).read_text()
    assert json.loads(note) == {"attempts": 1, "lost_seconds": 9.0, "saves": 1}
    attempt(tmp_path, clock, 0, 10, dies_after=0)
    (tmp_path / ATTEMPTS).write_text(note)
    found = attempt(tmp_path, clock, 0)
    assert (found.attempts, found.lost_seconds) == (2, 9.0)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_a_note_that_says_nothing_stops_nothing(text, tmp_path):
    task(tmp_path)
    (tmp_path / ATTEMPTS).write_text(text)
    assert task(tmp_path)[1].attempts == 2


def test_the_note_is_kept_up_to_date_while_the_process_works(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT", 0.01)
    with Checkpoints(tmp_path, of="x") as checkpoints:
        checkpoints.restore(counter=Counter())
        notes = set()
        while len(notes) < 3:  # or the test ends by its time-out
            notes.add(json.loads((tmp_path / ATTEMPTS).read_text())["lost_seconds"])
            time.sleep(0.005)
    assert len((tmp_path / ATTEMPTS).read_text()) == 127


# Full disks ---------------------------------------------------------------------------------------------------


def test_a_full_disk_loses_no_checkpoint(tmp_path):
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", tmp_path], check=False)
    if made.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        task(tmp_path, epochs=2)
        before = (tmp_path / CHECKPOINT).read_bytes()
        filler = tmp_path / "filler"
        with open(filler, "wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        with pytest.raises(OSError, match=r"No space left on device; the checkpoint before it is whole"):
            task(tmp_path)
        assert (tmp_path / CHECKPOINT).read_bytes() == before
        assert sorted(os.listdir(tmp_path)) == [ATTEMPTS, CHECKPOINT, "filler"]
        filler.unlink()
        assert task(tmp_path)[0].state["count"] == 4
    finally:
        subprocess.run(["umount", tmp_path], check=True)
