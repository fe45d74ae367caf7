"""Several processes for one run: `supervisor` starts them, `rank` is one of them, `leading` coordinates torchrun's."""
