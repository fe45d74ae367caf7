"""The command line: parses arguments, shows help, completes words, and dispatches to a command."""
