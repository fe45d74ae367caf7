"""What is trained: tuning methods of one encoder, and the plan that is made of them before training."""
