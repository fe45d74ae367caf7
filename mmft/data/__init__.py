"""From a table of rows to batches: table, splits, pictures, tokens, order, data set, collation, bad rows."""
