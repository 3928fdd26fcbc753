"""A run in a process of its own: the same numbers, a failure that is kept, an end with whoever waits for it."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from earlycrop_lab.checkpoints import Checkpoints, Occupied
from earlycrop_lab.comparing import isolation as module
from earlycrop_lab.comparing.isolation import FAILURE, PROGRESS, Beacon, Isolated, Note, failure, progress
from earlycrop_lab.runs import folder_name, read, run
from earlycrop_lab.tasks.classification import Classification

SMALL = Classification(method="snip", sparsity=0.5, network="mlp", width=16, train_size=256, epochs=3)
LONG = replace(SMALL, epochs=2000)


def never() -> bool:
    return False


def test_it_gives_the_same_numbers_as_this_process_and_leaves_only_the_result(tmp_path):
    assert Isolated(tmp_path / "isolated")(SMALL, never) is None
    folder = tmp_path / "isolated" / folder_name(SMALL)
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "result.json"]
    there, here = read(folder), run(SMALL, tmp_path / "here")
    timeless = [[replace(epoch, seconds=0.0) for epoch in result.epochs] for result in (there, here)]
    assert timeless[0] == timeless[1]
    assert there.environment["threads"] == 1
    assert there.columns.process_bytes != here.columns.process_bytes  # this process holds pytest too


def test_what_fails_says_why_in_its_folder_and_is_tried_again(tmp_path, monkeypatch):
    wrong = replace(SMALL, train_size=5)
    folder = tmp_path / folder_name(wrong)
    why = Isolated(tmp_path)(wrong, never)
    assert why == failure(folder)
    assert why.startswith("Cannot train on 5 images of digits")
    kept = json.loads((folder / FAILURE).read_text())
    assert kept["error"] == why
    assert kept["traceback"].startswith("Traceback")
    assert [path.name for path in folder.iterdir()] == [FAILURE]

    monkeypatch.setattr(sys, "executable", "/bin/true")  # it ends well; what failed before is no longer said
    assert Isolated(tmp_path)(wrong, never) is None
    assert failure(folder) is None


def test_a_device_that_is_not_there_is_named(tmp_path):
    assert Isolated(tmp_path, device="cuda:99")(SMALL, never).startswith("cuda:99 is not there")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="scripts of a Unix")
@pytest.mark.parametrize(("ends", "said"), [("kill -9 $$", "was killed by signal 9"), ("exit 3", "ended with code 3")])
def test_a_process_that_cannot_say_why_it_ended_is_quoted(ends, said, tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\necho its last words\n{ends}\n")
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))
    assert Isolated(tmp_path)(SMALL, never) == f"its process {said}"
    assert json.loads((tmp_path / folder_name(SMALL) / FAILURE).read_text())["traceback"] == "its last words\n"


@pytest.mark.slow
def test_a_run_that_another_process_does_is_left_to_it(tmp_path):
    folder = tmp_path / folder_name(SMALL)
    with Checkpoints(folder, of="the other"):
        why = Isolated(tmp_path, patience=0.0)(SMALL, never)
    assert why == f"another process is at work in {folder}"
    assert failure(folder) is None


def test_it_is_left_when_asked_and_goes_on_next_time(tmp_path):
    folder = tmp_path / folder_name(LONG)

    def after_two_epochs() -> bool:
        note = progress(folder)
        return note is not None and note.epoch >= 2

    assert Isolated(tmp_path)(LONG, after_two_epochs) == "stopped"
    assert failure(folder) is None
    with Checkpoints(folder, of=repr(LONG)) as kept:  # nobody works there any more
        assert kept.done >= 1
        assert kept.attempts == 2


@pytest.mark.slow
def test_it_leaves_when_whoever_waits_for_it_is_killed(tmp_path):
    code = f"from tests.lab.test_apart import *; Isolated(__import__('pathlib').Path({str(tmp_path)!r}))(LONG, never)"
    caller = subprocess.Popen([sys.executable, "-c", code])
    folder = tmp_path / folder_name(LONG)
    while progress(folder) is None:
        assert caller.poll() is None
        time.sleep(0.02)
    with pytest.raises(Occupied), Checkpoints(folder, of=repr(LONG)):
        pass
    caller.kill()
    caller.wait()
    until = time.monotonic() + 60
    while True:
        try:
            with Checkpoints(folder, of=repr(LONG)):
                break
        except Occupied:
            assert time.monotonic() < until, "it works on, and nobody waits for it"
            time.sleep(0.02)


def test_a_beacon_says_how_far_a_run_is(tmp_path):
    assert progress(tmp_path) is None
    beacon = Beacon(tmp_path, since=time.time() - 100)
    beacon.end()  # before it began
    beacon.begin(epochs=8, steps=4, done=3)
    first = progress(tmp_path)
    assert replace(first, seconds=0.0) == Note(epoch=3.0, epochs=8, first=3, seconds=0.0)
    assert 100 <= first.seconds < 160
    beacon.step()  # too soon for another note
    assert progress(tmp_path) == first
    beacon.epoch(4, {"loss": 1.0})
    assert progress(tmp_path).epoch == 4.0
    beacon.end()
    assert not (tmp_path / PROGRESS).exists()


def test_a_step_is_a_part_of_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAUSE", -1.0)  # every step is noted
    beacon = Beacon(tmp_path, since=time.time())
    beacon.begin(epochs=2, steps=4, done=0)
    beacon.step()
    assert progress(tmp_path).epoch == 0.25
    beacon.end()


@pytest.mark.parametrize("text", ["", "{", '{"epoch": 1}', "[]"])
def test_a_note_that_cannot_be_read_is_none(text, tmp_path):
    (tmp_path / PROGRESS).write_text(text)
    assert progress(tmp_path) is None
    (tmp_path / FAILURE).write_text(text)
    assert "cannot be read" in failure(tmp_path)
