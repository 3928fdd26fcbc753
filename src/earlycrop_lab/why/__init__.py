"""Why it works, measured: one network, taken apart. All questions have records, which the figures draw.

    inquiry         what `earlycrop why` kept in a folder, as titled pictures
    records         how answers are kept
    early_figures   pictures of when early pays
    choice_figures  pictures of what a choice is worth
    moment_figures  pictures of when the moment is
    flow_figures    pictures of what scores do to flow and kernel
    early           when early pays
    choices         what a choice is worth, apart from the widths
    moments         when the moment is
    flows           what scores do to flow and kernel
    independence    how little channels repeat each other
    branches        trainings that share their beginning

Imports point down this list and never up.
"""
