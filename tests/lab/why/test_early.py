"""When early pays: shared beginnings, equal cost, and what the table and the map say."""

import json
from dataclasses import replace

import pytest

from earlycrop_lab.cli import main
from earlycrop_lab.tasks.classification import Classification, train
from earlycrop_lab.why import early as module
from earlycrop_lab.why import early_figures, inquiry
from earlycrop_lab.why import moments as detectors
from earlycrop_lab.why.early import Early, Mark, cells, early, longer, markdown, marks, moments

pytestmark = pytest.mark.filterwarnings("ignore::earlycrop.starvation.StarvationWarning")

SMALL = Classification(method="earlycrop-s", network="cnn", width=6, train_size=100, batch_size=50)


@pytest.fixture(scope="module")
def seen():
    return list(early(SMALL, (0.5, 0.9), (2, 4), (0, 0.25, 0.5)))


def test_every_run_is_that_of_the_laboratory(seen):
    for each in (run for run in seen if run.sparsity == 0.9):
        d = replace(SMALL, sparsity=each.sparsity, epochs=each.epochs, prune_at=float(each.epoch))
        trained = train(d)
        assert each.accuracy == trained.columns.metrics["test_accuracy"], each
        assert trained.report is not None
        assert (each.flops_before, each.flops_after) == (trained.report.before.flops, trained.report.after.flops)


def test_every_cell_is_run_and_each_run_once(seen):
    assert len({each.key for each in seen}) == len(seen)
    budgets = {(each.epochs, each.epoch) for each in seen if each.sparsity == 0.9}
    assert {(2, 0), (2, 1), (4, 0), (4, 1), (4, 2)} <= budgets
    for each in seen:
        if each.epoch:
            start = next(s for s in seen if s.key == (each.sparsity, 0, each.epochs, 0))
            more = longer(each, start)
            assert more is not None
            assert (each.sparsity, 0, more, 0) in {run.key for run in seen}


def test_equal_cost_by_hand():
    run = Early(0.9, 0, 10, 2, 0.5, flops_before=100.0, flops_after=25.0, seconds=1.0)
    start = replace(run, epoch=0, flops_after=40.0)
    assert run.cost == 2 * 100 + 8 * 25
    assert longer(run, start) is None  # 400 / 40 are ten epochs
    assert longer(run, replace(start, flops_after=25.0)) == 16
    assert longer(run, replace(start, flops_after=1.0)) == 20  # at most twice the budget
    assert longer(replace(run, flops_after=float("nan")), start) is None


def test_moments_are_whole_and_each_once():
    assert moments(10, (0, 0.05, 0.1, 0.25, 0.5)) == [0, 1, 3, 5]
    assert moments(80, (0.05, 0.1)) == [0, 4, 8]


def test_what_is_done_is_not_done_again(seen):
    lacking = {(0.9, 0, 4, 2), (0.9, 0, 8, 0)}
    again = list(early(SMALL, (0.5, 0.9), (2, 4), (0, 0.25, 0.5), done=[r for r in seen if r.key not in lacking]))
    before = {each.key: each for each in seen}
    assert {each.key for each in again} == lacking
    assert all(replace(each, seconds=before[each.key].seconds) == before[each.key] for each in again)


def test_detectors_watch_the_training_that_the_runs_share(monkeypatch):
    found = list(marks(SMALL, (0.5, 0.9), 2, samples=2))
    rules = [watch.rule for watch in detectors.watched(replace(SMALL, epochs=2), samples=2).rules]
    assert [mark.rule for mark in found] == 2 * rules
    assert {mark.watched for mark in found} == {2}
    monkeypatch.setattr(module, "watched", None)
    assert not list(marks(SMALL, (0.5, 0.9), 2, done={mark.key for mark in found}))


def test_what_cannot_be_run_is_refused():
    with pytest.raises(ValueError, match="shares are parts of the budget"):
        next(early(SMALL, (0.5,), (2,), (1.0,)))
    with pytest.raises(ValueError, match="removes nothing"):
        next(early(replace(SMALL, method="dense"), (0.5,), (2,), (0.5,)))


def by_hand() -> list[Early]:
    """At 90 %: a cut after a quarter is far above the start, and as good as the longer one."""
    accuracies = {(8, 0): 0.5, (8, 2): 0.8, (8, 4): 0.6, (16, 0): 0.8}
    return [
        Early(0.9, seed, epochs, epoch, mean + aside, 100.0, 5.0, 1.0)
        for (epochs, epoch), mean in accuracies.items()
        for seed, aside in enumerate((-0.01, 0.0, 0.01))
    ]


def test_the_table_names_the_best_share_and_both_gains():
    (cell,) = cells(by_hand(), (8,), (0, 0.25, 0.5))
    assert cell.best == 2
    assert cell.gain(2).gain == pytest.approx(0.3)
    assert cell.gain(2).verdict == "better"
    dear = cell.gain_at_equal_cost(2)
    assert dear is not None
    assert (round(dear.gain, 6), dear.verdict) == (0, "inconclusive")
    assert cell.longer_epochs[2] == (16, 16, 16)
    line = markdown([cell]).splitlines()[2]
    assert line.startswith("| 90 % | 8 | 3 | 50.0 ± 1.0 % | 2 | 80.0 ± 1.0 % | +30 (")
    assert "| better | 16 | " in line
    assert line.endswith("| inconclusive |")


def test_the_map_shows_gains_and_moments():
    found = cells(by_hand(), (8,), (0, 0.25, 0.5))
    seen = [Mark("rate settled", 0.9, 0, 3.0, 4), Mark("lazy regime", 0.9, 0, None, 4)]
    figure = early_figures.early(found, (0, 0.25, 0.5), seen, title="a title")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["+30.0", "+10.0"]
    (mark,) = axes.lines
    assert mark.get_marker() == early_figures.MARKERS["rate settled"]
    assert float(mark.get_ydata()[0]) == pytest.approx(0.5 - 0.36)  # 3 of 8 epochs are midway between the rows
    equal = early_figures.early(found, (0, 0.25, 0.5), equal_cost=True)
    assert [text.get_text() for text in equal.axes[0].texts] == ["+0.0", "-20.0"]


def test_asked_on_the_command_line_it_goes_on_where_it_was(tmp_path, capsys):
    asked = ["why", "early", "--network=cnn", "--width=6", "--train-size=100", "--budgets", "2", "--shares", "0.5"]
    asked += ["--sparsities=0.8", "--samples=2", "--device=cpu", f"--out={tmp_path}"]
    assert main(asked) == 0
    folder = tmp_path / "why-early-digits-cnn-earlycrop-s-train100-width6"
    stored = json.loads((folder / "records.json").read_text())
    kept, stored["runs"] = stored["runs"], stored["runs"][:1]
    (folder / "records.json").write_text(json.dumps(stored))
    capsys.readouterr()
    assert main(asked) == 0
    out = capsys.readouterr().out
    assert out.count("cut after") == len(kept) - 1
    assert "would cut" not in out
    assert [each["accuracy"] for each in json.loads((folder / "records.json").read_text())["runs"]] == [
        each["accuracy"] for each in kept
    ]
    answer = inquiry.of(folder)
    assert answer.title == "When does early pay? earlycrop-s"
    assert len(answer.charts) == 2
    assert main([*asked, "--epochs=3"]) == 2
    assert "leave out --epochs" in capsys.readouterr().err
