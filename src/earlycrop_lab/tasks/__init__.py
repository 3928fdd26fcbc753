"""The tasks; each is one file that reads from top to bottom: data, model, optimizer, loop, evaluation."""
