"""How runs start: from the shell and from Python, one or a sweep of many, in this process or in several.

Several processes for one run: `supervisor` starts them, `rank` is one of them, `leading` coordinates torchrun's.
"""
