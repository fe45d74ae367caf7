"""What `mmft runs` shows: runs as they are found, in a table or side by side. Imports nothing heavy."""
