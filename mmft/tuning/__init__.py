"""Parameter-efficient tuning: methods for one encoder, and the plan that combines them before training."""
