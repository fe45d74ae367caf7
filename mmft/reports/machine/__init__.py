"""What `mmft doctor` looks at: one function per thing, each gives `Finding`s."""
