"""Reports on a finished model beyond its metrics on the test rows."""
