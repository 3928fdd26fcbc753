"""The verbs of the command, each file one verb or a few that belong together; `cli` has the table.

    why         ask what scores do, what they are worth, and when to prune
    questions   the questions of `why`
    compare     many runs, one table
    train       one run; the demonstration
    show        methods, finished runs, a folder of runs as a page
    options     the options that several verbs share
    verb        what a verb is

Imports point down this list and never up.
"""
