"""What is trained: tuning methods of one tower, and the plan that is made of them before training."""
