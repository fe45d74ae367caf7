"""Fusions: how two encoded modalities become one feature vector. One file per fusion."""
