"""What results say, and how that is shown: tables, tests of claims, pictures.

    display         training, as it is watched
    claims          what the poster claims, tested on runs
    summary         results of a few runs as tables and sentences
    charts          the pictures of a table of runs
    figures         the pictures of a run
    equal_cost      who is better at equal cost
    depth_figures   images and their depths, side by side
    differences     two rows beside each other
    tables          results as the poster's table
    columns         what can stand in a column
    conditions      what runs share, in words
    numbers         numbers as people read them
    intervals       of means, from few values

Imports point down this list and never up.
"""
