"""The laboratory: what the paper does with the library, on real data, measured (`pip install ".[lab]"`).

    cli           the command `earlycrop`: train, compare, why, methods, show, report, demo
    why_verbs     the questions of `why`
    compare       many runs, one table
    estimate      how long they will take
    board         all of them, as they are watched
    apart         a run in a process of its own
    grids         methods × sparsities × seeds × networks × data sets; the poster's tables by name
    engines       here, or on a Ray cluster
    display       training, as it is watched
    page          a folder of runs as one page
    why_figures   the pictures of `why`
    why_early_figures   of when early pays
    why_choice_figures  of what a choice is worth
    claims        what the poster claims, tested on runs
    charts        the pictures of a table of runs
    figures       the pictures of a run
    depth_figures images and their depths, side by side
    report        results of a few runs as tables and sentences
    why_early     when early pays
    why_choice    what a choice is worth, apart from the widths
    why           what scores do to flow and kernel; when the moment is
    beside        runs at equal cost, derived from the results of pruned ones
    equal_cost    who is better at equal cost
    differences   two rows beside each other
    tables        results as the poster's table
    intervals     of means, from few values
    runs          one frozen description, one folder, one result
    branches      trainings that share their beginning
    tasks         classification, depth, control, language: read one top to bottom
    torchrun      one run on several processes
    checkpoints   a run that is cut off goes on; no two processes at the same run
    models        the networks, by name
    data          the data sets, by name
    measure       the columns of the poster: time, memory, emissions, and on what it ran

Imports point down this list and never up.
"""
