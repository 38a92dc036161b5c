"""The command line: flags, messages, exit codes, locks, files written whole."""
