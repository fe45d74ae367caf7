"""From a table of rows to batches: table, splits, images, tokens, order, data set, collation, bad rows."""
