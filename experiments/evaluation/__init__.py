"""Evaluation episodes, their metrics and videos. Imports nothing of `run`."""
