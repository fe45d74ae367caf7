"""Images of rows: paths, formats, damaged files, decoding, pixels, augmentation, decoded images in memory."""
