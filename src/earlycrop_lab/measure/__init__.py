"""The columns of the poster, measured.

record      Epoch, Columns: what a run records, with the unit in each name
meters      Meters: the instruments of one run, around its training loop
time        seconds of each phase; milliseconds of a step, the median of warm ones
evaluating  a network in eval mode within a block
memory      the peak of live tensor bytes in one training step; the peak of the process
emissions   energy and CO₂, by CodeCarbon, offline
hardware    the hardware and software of a run
"""
