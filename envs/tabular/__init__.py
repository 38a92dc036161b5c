"""Finite decision processes: bandits, and Gymnasium's toy-text environments as exact tables."""
