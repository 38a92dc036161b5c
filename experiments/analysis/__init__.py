"""Scores and statistics of learning curves."""
