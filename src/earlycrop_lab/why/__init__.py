"""Why it works: measurements on one network. Every question keeps records, from which its figures are drawn.

    inquiry         the answers of `earlycrop why` in a folder, as titled charts
    records         how answers are kept
    early_figures   figures of when early pruning pays
    choice_figures  figures of what a choice is worth
    moment_figures  figures of when to prune
    flow_figures    figures of what scores do to flow and kernel
    layer_figures   figures of how much each layer matters
    early           when early pruning pays
    choices         what a score's choice is worth at fixed widths
    moments         when to prune
    flows           what scores do to the gradient flow and the neural tangent kernel
    layers          how much each layer matters
    independence    how little channels repeat each other
    branches        trainings that share their beginning

Imports point down this list and never up.
"""
