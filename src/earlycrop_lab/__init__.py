"""The laboratory: what the paper does with the library, on real data, measured (`pip install ".[lab]"`).

    cli           the command `earlycrop`
    verbs         its subcommands: train, compare, why, methods, show, report, demo
    comparing     many runs: grids, engines, one table
    page          a folder of runs as one page
    why           one network under the microscope: what scores do, and when to prune
    reporting     what results show: tables, claims, figures
    runs          one frozen description, one folder, one result
    tasks         classification, depth, control, language: each reads from top to bottom
    checkpoints   an interrupted run resumes; no two processes work on the same run
    models        the networks, by name
    data          the data sets, by name
    names         the names of the data sets, which are known without PyTorch
    measure       the columns of the poster: time, memory, emissions, and the hardware

Imports point down this list and never up. Each package has such a list of its own.
"""
