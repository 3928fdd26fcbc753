"""What is run beside a pruned row at equal cost: widths, sparsities and epochs counted by hand."""

from collections.abc import Callable
from math import log

import pytest

from earlycrop_lab.cli import main
from earlycrop_lab.comparing.beside import Narrowed, derived
from earlycrop_lab.comparing.kinds import KINDS
from earlycrop_lab.runs import Result
from earlycrop_lab.tasks import get_task, prepare
from earlycrop_lab.tasks.classification import Classification
from earlycrop_lab.tasks.control import Control
from earlycrop_lab.tasks.depth import Depth
from earlycrop_lab.tasks.description import Description
from earlycrop_lab.tasks.language import Language
from earlycrop_lab.verbs import comparison as verb
from tests.lab.results import report, result

BEFORE = {"prunable": 1800, "params": 1000, "nodes": 40, "flops": 1000.0}


def pruned(d: Description, flops: float, params: int, epoch: float = 0.0) -> Result:
    """A run of which so many of 1000 FLOPs and of 1000 parameters stay."""
    after = {"prunable": 90, "params": params, "nodes": 10, "flops": flops}
    counted = {"flops_before": 1000, "flops_after": flops, "parameters_before": 1000, "parameters_after": params}
    return result(d, report(before=BEFORE, after=after, epoch=epoch), **counted)


def mlp(method: str = "snap", seed: int = 0, epochs: int = 4, **said) -> Classification:
    asked = {} if method == "dense" else {"sparsity": 0.8}
    return Classification(method=method, network="mlp", width=32, seed=seed, epochs=epochs, **asked, **said)


def flops(width: int) -> int:
    """Of the MLP on 64 pixels and 10 classes, 2 a multiply-add."""
    return 2 * (64 * width + width * width + 10 * width)


def parameters(width: int) -> int:
    return (64 * width + width) + (width * width + width) + (10 * width + 10)


def test_each_width_is_counted_as_by_hand():
    found = Narrowed.of(mlp("dense"), None)
    assert found.widths == tuple(range(1, 33))
    assert found.flops == tuple(map(flops, range(1, 33)))
    assert found.params == tuple(map(parameters, range(1, 33)))


@pytest.mark.parametrize("part", [0.011, 0.02, 0.2, 0.5, 0.9])
@pytest.mark.parametrize(("count", "by_hand"), [("flops", flops), ("params", parameters)])
def test_the_width_is_the_nearest_of_all_by_its_logarithm(count: str, by_hand: Callable[[int], int], part: float):
    def distance(width: int) -> float:
        return abs(log(by_hand(width) / (part * by_hand(32))))

    assert Narrowed.of(mlp("dense"), None).width(count, part) == min(range(1, 33), key=distance)


@pytest.mark.parametrize(
    "d",
    [
        Classification(width=4, network="resnet18", method="dense"),
        Classification(width=4, network="vgg16-paper", method="dense"),
        Control(width=8, method="dense"),
        Depth(width=2, method="dense"),
        Language(width=8, method="dense"),
        Language(width=8, network="lstm", method="dense"),
    ],
    ids=lambda d: f"{d.task}-{d.network}",
)
def test_the_networks_of_all_tasks_can_be_narrow(d: Description):
    found = Narrowed.of(d, None)
    assert found.widths == tuple(range(1, (d.width or 0) + 1))
    assert found.params[-1] == sum(parameter.numel() for parameter in prepare(d).model.parameters())
    assert list(found.flops) == sorted(set(found.flops))


def test_only_widths_that_the_network_can_have_are_looked_at():
    found = Narrowed.of(Classification(network="resnext101-32x16d", width=8, method="dense"), None)
    assert found.widths == (4, 8)


def test_a_network_of_one_width_has_no_narrow_one(monkeypatch):
    setup = prepare(mlp("dense"))
    setup.in_width = None
    monkeypatch.setattr("earlycrop_lab.comparing.beside.prepare", lambda *_: setup)
    found = derived({"narrow-flops": [pruned(mlp(), 200.0, 75)]}, None)
    assert found.runs == ()
    assert found.lacking == ("no narrow-flops beside snap 80 %: mlp of the task classification has only one width.",)


def test_all_seeds_of_a_row_have_the_same_run_beside_them():
    runs = [pruned(mlp(seed=seed), flops, 75) for seed, flops in ((0, 150.0), (3, 250.0))]  # 0.2 on average
    found = derived(dict.fromkeys(KINDS, runs), None)
    assert found.lacking == ()
    narrow = {
        width: [Classification(method="dense", network="mlp", width=width, seed=s, epochs=4) for s in (0, 3)]
        for width in (3, 8)
    }  # 247 of 3466 parameters are nearest to 0.075, 1312 of 6784 FLOPs to 0.2
    random = [
        Classification(method="random-s", target="flops", sparsity=0.8, network="mlp", width=32, seed=s, epochs=4)
        for s in (0, 3)
    ]
    assert found.runs == (*narrow[8], *narrow[3], *random, *(mlp(seed=s, epochs=20) for s in (0, 3)))


def test_the_share_is_that_of_the_column_but_a_budgets_is_the_plans():
    """Products of two activations are in the column, and in the counts of widths; no budget has them."""
    d = mlp()
    cut = report(before=BEFORE, after={**BEFORE, "flops": 300.0}, epoch=0.0)
    run = result(d, cut, flops_before=2000, flops_after=400, parameters_before=1000, parameters_after=75)
    narrow, random, longer = (derived({kind: [run]}, None).runs[0] for kind in KINDS if kind != "narrow-params")
    assert (narrow.width, random.sparsity, longer.epochs) == (8, 0.7, 20)


def test_flops_that_could_not_be_counted_have_nothing_beside_them():
    run = result(mlp(), report(before=BEFORE, epoch=0.0), flops_before=None, flops_after=None)
    found = derived({"narrow-flops": [run]}, None)
    assert found.lacking == ("no narrow-flops beside snap 80 %: its flops could not be counted.",)


def test_a_floor_stays_that_of_the_row():
    (run,) = derived({"random-flops": [pruned(mlp(min_channels=3, reading=None), 300.0, 75)]}, None).runs
    assert (run.sparsity, run.target, run.min_channels) == (0.7, "flops", 3)


@pytest.mark.parametrize(
    ("row", "rescale"),
    [
        (mlp(), None),
        (mlp(rescale="no"), "no"),
        (mlp("crop-s-poster"), "no"),
        (mlp("crop-s-poster", rescale="yes"), None),
    ],
)
def test_a_random_cut_has_its_scale_given_back_where_the_row_has(row, rescale):
    (run,) = derived({"random-flops": [pruned(row, 300.0, 75)]}, None).runs
    assert run.rescale == rescale


def test_only_what_is_cut_before_its_only_training_is_trained_longer():
    late = [pruned(mlp("earlycrop-s"), 200.0, 75, epoch=2.0), pruned(mlp("efficient-convnets"), 200.0, 75, epoch=4.0)]
    assert derived({"longer": late}, None).runs == ()


def test_dense_and_masked_rows_have_nothing_beside_them():
    rows = [result(mlp("dense")), result(mlp("snip"), report(unit="weights", epoch=0.0))]
    assert derived(dict.fromkeys(KINDS, rows), None) == derived({}, None)


def test_where_nothing_left_a_sentence_says_so():
    found = derived({"random-flops": [pruned(mlp(), 1000.0, 1000)]}, None)
    assert found.runs == ()
    assert found.lacking == (
        "no random-flops beside snap 80 %: 100 % of its flops stay, so there is nothing to compare it with.",
    )


# The command ----------------------------------------------------------------------------------------------

GRID = ("--methods", "dense", "snap", "snip", "--networks=mlp", "--width=32", "--epochs=4", "--sparsities=0.8")


@pytest.fixture
def waves(monkeypatch) -> list[list[Description]]:
    """The runs of each call of `compare`, which are done at once; of the second wave none has a result."""
    asked: list[list[Description]] = []

    def compare(runs, *_):
        asked.append(list(runs))
        if len(asked) > 1:
            return [(run, "no luck") for run in runs]
        return [(run, result(run) if run.method == "dense" else pruned(run, 200.0, 75)) for run in runs]

    monkeypatch.setattr(verb, "compare", compare)
    return asked


def test_the_second_wave_follows_from_the_results_of_the_first(waves, tmp_path, capsys):
    assert main(["compare", *GRID, "--seeds=2", "--beside", "narrow-flops", "longer", f"--out={tmp_path}"]) == 1
    assert [(run.method, run.seed) for run in waves[0]] == [(m, s) for s in (0, 1) for m in ("dense", "snap", "snip")]
    assert [(run.method, run.width, run.epochs, run.seed) for run in waves[1]] == [
        *(("dense", 8, 4, seed) for seed in (0, 1)),
        *(("snap", 32, 20, seed) for seed in (0, 1)),
    ]
    assert capsys.readouterr().out.count("| no luck |") == 4  # rows that say why


def test_a_run_that_the_grid_has_is_not_run_beside_it_again(waves, tmp_path, monkeypatch):
    same = mlp("dense")
    monkeypatch.setattr("earlycrop_lab.comparing.beside._run", lambda *_: same)
    assert main(["compare", *GRID, "--beside", "narrow-flops", f"--out={tmp_path}"]) == 0
    assert len(waves) == 1


def test_a_preset_has_runs_beside_it_and_may_have_others(waves, tmp_path):
    small = ("--preset=recipe-vgg16", "--data=digits", "--networks=mlp", "--width=32", "--train-size=640", "--epochs=8")
    main(["compare", *small, "--methods", "dense", "snap", "--seeds=1", f"--out={tmp_path}"])
    assert [run.method for run in waves[1]] == ["dense", "dense", "random-s"]
    waves.clear()
    main(["compare", *small, "--methods", "snap", "--seeds=1", "--beside", "longer", f"--out={tmp_path}"])
    assert [(run.method, run.epochs) for run in waves[1]] == [("snap", 40)]


def test_an_estimate_says_that_they_will_come(tmp_path, capsys):
    arguments = ["--train-size=256", "--beside", "narrow-flops", "longer", "--estimate", f"--out={tmp_path}"]
    assert main(["compare", *GRID, *arguments]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Not included: the runs beside each method that removes channels (narrow-flops, longer)")


def test_a_kind_that_does_not_exist_is_refused(tmp_path, capsys):
    assert main(["compare", *GRID, "--beside", "narow-flops", f"--out={tmp_path}"]) == 2
    assert "Did you mean 'narrow-flops'" in capsys.readouterr().err


def test_every_task_gives_its_network_in_other_widths():
    for name in ("classification", "depth", "control", "language"):
        assert prepare(get_task(name).description(method="dense", width=4)).in_width is not None
