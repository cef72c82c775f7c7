"""Training: the run, its steps, its checkpoints."""
