"""What is told of a finished model besides its metrics on the test rows."""
