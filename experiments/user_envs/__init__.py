"""Environments in somebody's own file: loaded, checked."""
