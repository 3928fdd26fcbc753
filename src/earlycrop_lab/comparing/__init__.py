"""Many runs: which, where they are run, how long they will take, and the table of all.

    compare     those that have no result yet are run; one table
    estimate    how long they will take
    dashboard   all of them, as they are watched
    grids       methods × sparsities × seeds × networks × data sets; the poster's tables by name
    isolation   a run in a process of its own
    beside      runs at equal cost, derived from the results of pruned ones
    engines     here, or on a Ray cluster

Imports point down this list and never up.
"""
