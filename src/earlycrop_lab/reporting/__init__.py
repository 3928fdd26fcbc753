"""What results show, and how: tables, tests of claims, plots.

    display         the progress of training, live
    claims          the poster's claims, tested on runs
    summary         results of a few runs as tables and sentences
    charts          the plots of a table of runs
    figures         the plots of one run
    equal_cost      which method is better at equal cost
    depth_figures   images and their depths, side by side
    differences     two rows of the table compared
    tables          results as the poster's table
    columns         the columns of the table
    conditions      what runs have in common, in words
    numbers         numbers, formatted for people
    intervals       confidence intervals of means, from few values
    texts           how figures take texts

Imports point down this list and never up.
"""
