"""The verbs of the command, a module each with its `arguments` and how to `act`; `cli` has the table.

They only know their options: what carries them out, and with it PyTorch, is imported when it is asked for, so that a
wrong option is refused at once.

    why         ask what scores do, what they are worth, and when to prune
    compare     many runs, one table
    demo        the demonstration
    questions   what answers the questions of `why`
    train       one run
    comparison  what carries out `compare`
    training    what carries out `train`
    methods     the table of methods
    report      a folder of runs as a page
    pack        the results of a folder of runs in one file
    show        a finished run
    options     the options that several verbs share
    logs        the option --log
    showing     what carries out `show`
    verb        what a verb is

Imports point down this list and never up.
"""
