"""The hash that holds prompts out."""

import jax.numpy as jnp
import numpy as np

from envs.tokens.task import _hash


def test_the_loop_holds_out_what_the_formula_does():
    """FNV-1a, token by token, and the last mixing, in Python's whole numbers."""
    rows = np.random.default_rng(0).integers(0, 50_000, (64, 7))

    def plain(row):
        h = 2166136261
        for token in row.tolist():
            h = ((h ^ token) * 16777619) % 2**32
        h = ((h ^ (h >> 16)) * 0x85EBCA6B) % 2**32
        return h ^ (h >> 13)

    assert _hash(jnp.asarray(rows)).tolist() == [plain(row) for row in rows]
