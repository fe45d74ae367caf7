"""One short file for each command: `mmft NAME` calls the function `NAME` of its file."""
