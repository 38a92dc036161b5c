"""Programs that other interpreters run, with libraries of their own; run by path."""
