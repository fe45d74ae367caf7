"""Training: the LightningModule, the step's arithmetic, optimizers, schedules, checkpoints, metrics file."""
