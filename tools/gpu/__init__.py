"""What mmft does on a GPU, measured there: `pack.py` runs here, `run.py` on the machine that has one."""
