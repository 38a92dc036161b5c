"""Learners of token tasks: a transformer, its generation, and one learner a file."""
