"""What is told of many runs while they run, from the notes in their folders."""

import io
import json
from dataclasses import asdict

import pytest
from rich.console import Console

from earlycrop_lab.comparing.dashboard import Dashboard
from earlycrop_lab.comparing.isolation import PROGRESS, Note
from earlycrop_lab.runs import folder_name
from earlycrop_lab.tasks.classification import Classification
from tests.lab.results import result

DENSE, SNIP, SNAP = (Classification(method=method, network="mlp", epochs=10) for method in ("dense", "snip", "snap"))
LARGE = Classification(method="dense", epochs=10)


def note(out, run, epoch, first, seconds):
    folder = out / folder_name(run)
    folder.mkdir(exist_ok=True)
    (folder / PROGRESS).write_text(json.dumps(asdict(Note(epoch, 10, first, seconds))))


def told(dashboard):
    return dashboard.console.file.getvalue().splitlines()


def board_of(runs, out, workers=1):
    return Dashboard(Console(file=io.StringIO()), runs, out, workers)


def test_in_a_log_every_run_has_a_line_as_it_begins_and_one_as_it_ends(tmp_path):
    dashboard = board_of([DENSE, SNIP, SNAP], tmp_path)
    with dashboard.live():
        dashboard.look()
        assert told(dashboard) == []
        note(tmp_path, DENSE, 2.5, 0, 5.0)
        note(tmp_path, SNIP, 4.0, 4, 1.0)
        dashboard.look()
        dashboard.look()
        dashboard.ended(
            DENSE, result(DENSE, test_accuracy=0.75, dense_seconds=59.5, scoring_seconds=0, sparse_seconds=0)
        )
        dashboard.ended(SNAP, "no disk")
    assert [line.split(" (")[0] for line in told(dashboard)] == [
        "began digits-mlp-dense-epochs10-seed0",
        "began digits-mlp-snip-0.95-epochs10-seed0, from epoch 5 of 10",
        "done digits-mlp-dense-epochs10-seed0: 75.0 % in 1 min 00 s",
        "FAILED digits-mlp-snap-0.95-epochs10-seed0: no disk",
    ]
    assert "(1 of 3, about" in told(dashboard)[2]


def test_a_note_of_a_process_that_was_killed_is_not_taken_for_one_at_work(tmp_path):
    note(tmp_path, DENSE, 3.0, 0, 5.0)
    dashboard = board_of([DENSE], tmp_path)
    dashboard.look()
    assert told(dashboard) == []
    note(tmp_path, DENSE, 3.0, 3, 0.5)  # it goes on
    dashboard.look()
    assert len(told(dashboard)) == 1


def test_the_time_left_is_counted_by_hand(tmp_path):
    """4 epochs in 8 s are 2 s an epoch: 6 epochs of dense are left, and 10 of each other."""
    dashboard = board_of([DENSE, SNIP, SNAP], tmp_path)
    dashboard.look()
    assert dashboard.seconds_left() is None
    note(tmp_path, DENSE, 4.0, 0, 8.0)
    dashboard.look()
    assert dashboard.seconds_left() == pytest.approx(2.0 * (6 + 10 + 10))
    dashboard.ended(DENSE, result(DENSE))  # its 10 epochs took 8 s as last seen
    assert dashboard.seconds_left() == pytest.approx(0.8 * 20)
    note(tmp_path, SNIP, 7.0, 5, 2.8)  # went on with epoch 6: 2 epochs in 2.8 s; 12 in 10.8 s together
    dashboard.look()
    assert dashboard.seconds_left() == pytest.approx(0.9 * (3 + 10))
    dashboard.ended(SNIP, result(SNIP))
    dashboard.ended(SNAP, result(SNAP))
    assert dashboard.seconds_left() == 0


def test_side_by_side_it_is_less(tmp_path):
    dashboard = board_of([DENSE, SNIP, SNAP], tmp_path, workers=2)
    note(tmp_path, DENSE, 4.0, 0, 8.0)
    dashboard.look()
    assert dashboard.seconds_left() == pytest.approx(2.0 * (6 + 10 + 10) / 2)


def test_a_network_is_paced_by_its_own_kind(tmp_path):
    dashboard = board_of([DENSE, SNIP, LARGE], tmp_path)
    note(tmp_path, DENSE, 4.0, 0, 8.0)
    note(tmp_path, LARGE, 1.0, 0, 100.0)
    dashboard.look()
    assert dashboard.seconds_left() == pytest.approx(2.0 * (6 + 10) + 100.0 * 9)


def test_in_a_terminal_it_fits(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=60)
    dashboard = Dashboard(console, [DENSE], tmp_path)
    note(tmp_path, DENSE, 4.0, 0, 8.0)
    with dashboard.live():
        dashboard.look()
        dashboard.bars.refresh()
    assert "epoch 4.0 of 10" in console.file.getvalue()
