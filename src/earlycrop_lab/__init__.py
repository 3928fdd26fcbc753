"""The laboratory: what the paper does with the library, on real data, measured (`pip install ".[lab]"`).

    cli           the command `earlycrop`
    verbs         what can be asked of it: train, compare, why, methods, show, report, demo
    comparing     many runs: grids, engines, one table
    page          a folder of runs as one page
    why           one network taken apart: what scores do, and when the moment is
    reporting     what results say: tables, claims, pictures
    runs          one frozen description, one folder, one result
    tasks         classification, depth, control, language: read one top to bottom
    checkpoints   a run that is cut off goes on; no two processes at the same run
    models        the networks, by name
    data          the data sets, by name
    measure       the columns of the poster: time, memory, emissions, and on what it ran

Imports point down this list and never up. Each package has such a list of its own.
"""
