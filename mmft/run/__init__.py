"""Existing runs: their folders, their finished models, and what is done with them. Imports nothing heavy itself."""
