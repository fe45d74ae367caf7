"""Runs that are there: their folders, the finished model in them, what is made of it. Imports nothing heavy itself."""
