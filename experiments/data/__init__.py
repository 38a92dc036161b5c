"""Datasets of recorded episodes, in Minari's format on disk, as the arrays that learners take."""
