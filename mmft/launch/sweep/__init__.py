"""Sweeps: `grid` and `study` choose the runs, `in_process` and `parallel` execute them, `sweep` ties them together."""
