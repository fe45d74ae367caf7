"""Thousands of damaged tables, images, configs and checkpoints, and what mmft must not do with them: see `run.py`."""
