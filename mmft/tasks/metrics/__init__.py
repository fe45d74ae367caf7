"""Metrics of answers. What a task computes of a split, and which of its names are better when lower."""
