"""The row checks of `mmft check`: bad rows, (near) duplicates, label distribution."""
