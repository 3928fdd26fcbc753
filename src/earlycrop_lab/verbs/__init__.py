"""The verbs of the command, a file for each or for a few that belong together; `cli` has the table.

    why         ask what scores do, what they are worth, and when the moment is
    questions   the questions of `why`
    compare     many runs, one table
    train       one run; the demonstration
    show        what there is: methods, runs, a page
    options     the options that several verbs have
    verb        what a verb is

Imports point down this list and never up.
"""
