"""Pruners beside other people's training loops: one module for each framework, imported only if it is asked for.

earlycrop.integrations.lightning      a Lightning callback, and the loading of its checkpoints
earlycrop.integrations.transformers   a callback of the Hugging Face Trainer, and pruned models as folders
earlycrop.integrations.accelerate     states of a pruned training in accelerate's own loop

Lightning's Fabric needs nothing of its own, see docs/frameworks.md.
"""
