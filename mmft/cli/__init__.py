"""The command line: reads what was typed, shows help, completes words, and hands over to a command."""
