"""Sweeps: `grid` and `study` say which runs are made, `in_process` and `parallel` make them, `sweep` is the whole."""
