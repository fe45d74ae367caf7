"""The checks of `mmft doctor`: one function per subject, each giving its `Diagnosis`."""
