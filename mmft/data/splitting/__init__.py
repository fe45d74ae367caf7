"""Which rows are for training, validation and test: columns, files, fractions, folds, units kept together."""
