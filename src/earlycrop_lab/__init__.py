"""The laboratory: what the paper does with the library, on real data, measured (`pip install "earlycrop[lab]"`).

    cli         the command `earlycrop`: train, compare, methods, show, demo
    compare     many runs, one table
    estimate    how long they will take
    board       all of them, as they are watched
    apart       a run in a process of its own
    engines     here, or on a Ray cluster
    grids       methods × sparsities × seeds × networks × data sets; the poster's tables by name
    display     training, as it is watched
    figures     the pictures of a run
    report      results as tables and sentences
    runs        one frozen description, one folder, one result
    tasks       classification: read it top to bottom
    checkpoints a run that is cut off goes on; no two processes at the same run
    models      the networks, by name
    data        the data sets, by name
    measure     the columns of the poster: time, memory, emissions, and on what it ran

Imports point down this list and never up.
"""
