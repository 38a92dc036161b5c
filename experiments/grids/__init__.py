"""Grids of runs: planning, launching, monitoring."""
