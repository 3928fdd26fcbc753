"""A grid stands for its runs: counted and named by hand."""

import re
from dataclasses import replace

import pytest

import earlycrop
from earlycrop_lab.comparing.grids import PRESETS, TABLE_A, Grid, check_meaning, get_preset, runs_of, too_short
from earlycrop_lab.runs import folder_name
from earlycrop_lab.tasks.classification import Classification

SMALL = Grid(("dense", "snip", "crop-s"), sparsities=(0.9, 0.98), seeds=(0, 1), fixed={"epochs": 5})


def test_the_runs_of_a_grid_are_those_counted_by_hand():
    """Dense once a seed, the others once a sparsity and seed; the first seed whole before the second."""
    by_hand = [
        Classification(method=method, seed=seed, epochs=5, **pruned)
        for seed in (0, 1)
        for method, pruned in (
            ("dense", {}),
            ("snip", {"sparsity": 0.9}),
            ("snip", {"sparsity": 0.98}),
            ("crop-s", {"sparsity": 0.9}),
            ("crop-s", {"sparsity": 0.98}),
        )
    ]
    assert SMALL.runs() == by_hand


def test_networks_and_data_multiply_and_a_network_may_be_the_usual():
    grid = Grid(("dense", "snip"), networks=("mlp", None), data=("digits", "cifar10"))
    assert [(run.data, run.network, run.width, run.method) for run in grid.runs()] == [
        ("digits", "mlp", 128, "dense"),
        ("digits", "mlp", 128, "snip"),
        ("digits", "resnet18", 32, "dense"),
        ("digits", "resnet18", 32, "snip"),
        ("cifar10", "mlp", 128, "dense"),
        ("cifar10", "mlp", 128, "snip"),
        ("cifar10", "resnet18", 64, "dense"),
        ("cifar10", "resnet18", 64, "snip"),
    ]


def test_what_is_of_pruning_is_left_out_where_nothing_is_pruned():
    grid = Grid(("dense", "crop-s"), fixed={"target": "node", "min_channels": 2, "width": 8})
    dense, pruned = grid.runs()
    assert dense == Classification(method="dense", width=8)
    assert pruned == Classification(method="crop-s", target="node", min_channels=2, width=8)


def test_what_is_of_channels_is_left_out_where_weights_are_masked():
    masked, cut = Grid(("snip", "snap"), fixed={"target": "node", "min_part": 0.1, "width": 8}).runs()
    assert masked == Classification(method="snip", width=8)
    assert cut == Classification(method="snap", target="node", min_part=0.1, width=8)
    assert Grid(("snip",), fixed={"target": "params"}).runs() == [Classification(method="snip", target="params")]


SCORED_BY_CROP = {"crop-s", "cropit-s", "earlycrop-s"}
IN_ROUNDS = {"gate-decorators", "efficient-convnets", "ltr"}


@pytest.mark.parametrize(
    ("field", "value", "means_something_to"),
    [
        ("reading", "mixed", SCORED_BY_CROP),
        ("rounds", 3, IN_ROUNDS),
        ("per_round", 0.5, IN_ROUNDS),
        ("prune_at", 2.0, set(TABLE_A) - {"dense", "gate-decorators", "ltr"}),
        ("equal_budget", True, IN_ROUNDS),
        ("min_part", 0.1, {*SCORED_BY_CROP, "random-s", "snap", "earlybird", "gate-decorators", "efficient-convnets"}),
    ],
)
def test_what_means_nothing_to_a_method_is_left_out_of_its_runs(field, value, means_something_to):
    grid = Grid(TABLE_A, fixed={field: value, "epochs": 80})
    plain = {run.method: run for run in Grid(TABLE_A, fixed={"epochs": 80}).runs()}
    runs = {run.method: run for run in grid.runs()}
    assert set(runs) == set(TABLE_A)
    assert {name for name, run in runs.items() if getattr(run, field) == value} == means_something_to
    assert all(runs[name] == plain[name] for name in set(TABLE_A) - means_something_to)
    check_meaning(grid.fixed, [Grid(("dense",)), grid])
    with pytest.raises(ValueError, match=f"{field} means nothing to .*: leave it out, or name a method"):
        check_meaning({field: value}, [Grid(tuple(set(TABLE_A) - means_something_to))])


def test_rounds_mean_nothing_to_a_moment_that_was_moved():
    (run,) = Grid(("efficient-convnets",), fixed={"prune_at": 2.0, "rounds": 3, "equal_budget": True}).runs()
    assert run == Classification(method="efficient-convnets", prune_at=2.0)


@pytest.mark.parametrize(
    ("fixed", "lacking"),
    [
        ({"equal_budget": True}, {"gate-decorators": "20 epochs cannot be divided between the trainings of gate-dec"}),
        ({"epochs": 5}, {"earlybird": "earlybird may watch until epoch 5 .* more than 5, not 5"}),
    ],
)
def test_a_run_with_too_few_epochs_does_not_stop_the_others(fixed, lacking):
    quick = [replace(grid, fixed={**grid.fixed, **fixed}) for grid in get_preset("quick")]
    assert {run.method for run in runs_of(quick)} == set(TABLE_A) - set(lacking)
    found = too_short([*quick, *quick])
    assert [run.method for run in found] == list(lacking)
    for run, why in found.items():
        assert re.match(lacking[run.method], why)
        assert (run.width, run.sparsity, run.epochs) == (16, 0.9, fixed.get("epochs", 20))
        assert run.method in folder_name(run)


@pytest.mark.parametrize(("epochs", "together", "ltr"), [(80, 1844, 554), (6, 153, 36)])
def test_the_epochs_of_a_smoke_run_are_those_in_the_documentation(epochs, together, ltr):
    (table_a,) = (replace(grid, fixed={"epochs": epochs, "max_steps": 2}) for grid in get_preset("table-a"))
    runs = {run.method: run.total_epochs for run in table_a.runs()}
    assert (sum(runs.values()), runs["ltr"], len(runs)) == (together, ltr, 16)


def test_a_budget_that_is_not_divided_names_no_second_run():
    spread = ("crop-s-spread", "crop-u-spread")
    assert Grid(spread, fixed={"equal_budget": True}).runs() == Grid(spread).runs()
    with pytest.raises(ValueError, match="equal_budget means nothing to crop-s-spread, crop-u-spread"):
        check_meaning({"equal_budget": True}, [Grid(spread)])


def test_what_else_cannot_be_is_refused_as_a_whole():
    for fixed, error in (({"epochs": 5, "prune_at": 7.0}, "prune_at is a whole"), ({"reading": "mixd"}, "'mixed'")):
        grid = Grid(TABLE_A, fixed=fixed)
        for look in (grid.runs, grid.too_short):
            with pytest.raises(ValueError, match=error):
                look()


def test_the_efficient_convnets_of_the_authors_are_one_training():
    original, adapted = Grid(("efficient-convnets",), fixed={"epochs": 10}), {"epochs": 10, "prune_at": 2.0}
    assert [run.total_epochs for run in original.runs()] == [15]
    assert [run.total_epochs for run in Grid(("efficient-convnets",), fixed=adapted).runs()] == [10]


def test_a_run_that_several_grids_share_is_one():
    shared = runs_of([SMALL, replace(SMALL, sparsities=(0.98, 0.5))])
    assert len(shared) == 2 * (1 + 3 + 3)
    assert len(set(map(folder_name, shared))) == len(shared)


@pytest.mark.parametrize("name", PRESETS)
def test_every_run_of_a_preset_can_be_and_has_a_folder_of_its_own(name):
    runs = runs_of(get_preset(name))
    names = set(map(folder_name, runs))
    assert len(names) == len(runs) > 3
    assert not any("None" in name for name in names)


@pytest.mark.parametrize("name", ["quick", "table-a"])
def test_table_a_has_the_sixteen_rows_of_the_poster(name):
    runs = runs_of(get_preset(name))
    assert [run.method for run in runs] == list(TABLE_A)
    assert len(set(TABLE_A)) == 16
    assert set(TABLE_A) <= set(earlycrop.METHODS)


def test_table_a_is_the_posters():
    for run in runs_of(get_preset("table-a")):
        assert (run.network, run.data, run.epochs, run.batch_size) == ("vgg16-paper", "tiny-imagenet", 80, 128)
        assert run.sparsity == (0.95 if run.method == "dense" else 0.98)  # what dense does not use is as usual


def test_table_b_is_the_posters():
    """Both networks dense for 30 epochs; the larger pruned, for 30 and for 80."""
    runs = runs_of(get_preset("table-b"))
    assert {(run.network[11:], run.method, run.epochs) for run in runs} == {
        ("32x48d", "dense", 30),
        ("32x16d", "dense", 30),
        ("32x48d", "crop-s", 30),
        ("32x48d", "earlycrop-s", 30),
        ("32x48d", "crop-s", 80),
        ("32x48d", "earlycrop-s", 80),
    }
    assert {(run.data, run.target) for run in runs} == {("cifar10", "weight")}
    assert {run.sparsity for run in runs if run.method != "dense"} == {0.985}


def test_only_what_trains_more_than_once_has_a_budget_to_divide():
    """Elsewhere it would be the same run in another folder."""
    runs = Grid(("dense", "snip", "ltr"), fixed={"equal_budget": True, "epochs": 30}).runs()
    assert [(run.method, run.equal_budget) for run in runs] == [("dense", False), ("snip", False), ("ltr", True)]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"methods": ()}, "A grid without methods has no runs"),
        ({"seeds": ()}, "A grid without seeds"),
        ({"fixed": {"epocs": 5}}, "No run has a 'epocs'. Did you mean 'epochs'"),
        ({"fixed": {"seed": 5}}, "'seed' varies in a grid: give its values as 'seeds'"),
    ],
)
def test_a_grid_refuses_what_cannot_be(said, error):
    with pytest.raises(ValueError, match=error):
        Grid(**{"methods": ("dense",), **said})


def test_an_unknown_name_is_named_nearly():
    with pytest.raises(ValueError, match="Did you mean 'snip'"):
        Grid(("snipp",)).runs()
    with pytest.raises(ValueError, match="Did you mean 'table-a'"):
        get_preset("tabel-a")
