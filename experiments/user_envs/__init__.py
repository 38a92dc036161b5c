"""Loads and checks environments, tasks and algorithms in a user's own file."""
