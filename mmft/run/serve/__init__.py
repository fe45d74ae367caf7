"""`mmft serve`: a run's answers over HTTP."""
