"""One short file per command: `mmft NAME` calls the function `NAME` of its file."""
