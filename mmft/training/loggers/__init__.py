"""Loggers in addition to metrics.csv, one module each; `mmft.training.loggers.base` has what they share."""
