"""Episodes without learning, their figures and their pictures. Imports nothing of `run`."""
