"""People's marks of a run's answers: which rows are marked, reading marks, agreement, corrected figures."""
