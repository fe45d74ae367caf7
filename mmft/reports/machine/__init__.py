"""The checks of `mmft doctor`: one function per subject, each yielding `Finding`s."""
