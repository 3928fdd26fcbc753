"""The columns of the poster, measured.

record      Epoch, Columns: what a run writes down, with the unit in each name
meters      Meters: the instruments of one run, beside its training loop
time        seconds of each phase; milliseconds of a step, the median of warm ones
evaluating  a network in eval mode for as long as it is looked at
memory      the peak of live tensor bytes in one training step; the peak of the process
emissions   energy and CO₂, by CodeCarbon, offline
hardware    on what it ran
"""
