"""Many runs: which ones, where they execute, how long they will take, and the table of all.

    compare     run those that have no result yet, and collect one table
    estimate    how long they will take
    dashboard   the progress of all of them, live
    grids       methods × sparsities × seeds × networks × data sets; the poster's tables by name
    isolation   one run in its own process
    beside      runs at equal cost, derived from the results of pruned ones
    engines     execution on this machine, or on a Ray cluster
    kinds       the names of the kinds of runs at equal cost

Imports point down this list and never up.
"""
