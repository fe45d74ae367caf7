"""What `mmft runs` shows: runs as a table or side by side. Imports nothing heavy."""
