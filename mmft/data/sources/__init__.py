"""Where tables come from: files by their format, and rows in memory. To add a format, see `formats`."""
