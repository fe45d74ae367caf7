"""Fusions: combine two encoded modalities into one feature vector. One file per fusion."""
