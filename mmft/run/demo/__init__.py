"""`mmft demo`: a page in the browser on which people try a run and mark its answers."""
