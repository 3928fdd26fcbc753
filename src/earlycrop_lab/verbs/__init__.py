"""The verbs of the command, a module each with its `arguments` and how to `act`; `cli` has the table.

    why         ask what scores do, what they are worth, and when to prune
    questions   the questions of `why`
    compare     many runs, one table
    demo        the demonstration
    train       one run
    methods     the table of methods
    report      a folder of runs as a page
    pack        the results of a folder of runs in one file
    show        a finished run
    options     the options that several verbs share
    logs        the option --log
    verb        what a verb is

Imports point down this list and never up.
"""
