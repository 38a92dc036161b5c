"""Curves into numbers."""
