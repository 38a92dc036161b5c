"""The compiled programs of a run. Each is compiled once, when first called, and its compile time is added up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from agents.algorithm import CollectsApart, Learner

MAX_CHUNK = 2048  # iterations


class Programs:
    """All take and return states with a leading axis of seeds.

    init(keys) -> states
    chunk(states, n) -> states after n iterations, metrics [MAX_CHUNK, seeds] of which n are filled; the states
      given are donated. `n` is data, so one program serves every length, and results do not depend on it.
    collect(states) -> the first half of an iteration, to time it
    evaluate(states, keys [seeds, N]) -> what the function `evaluate` makes of (algo, state, keys), leading axis seeds
    """

    def __init__(self, algo: Learner, seeds: int, evaluate: Callable[[Any, Any, Any], Any]):
        self.compile_s = 0.0
        step = _over_seeds(algo.step, seeds)

        def chunk(states, n):
            shapes = jax.eval_shape(step, states)[1]
            buffers = {k: jnp.zeros((MAX_CHUNK, *x.shape)) for k, x in shapes.items()}

            def body(i, carry):
                states, buffers = carry
                states, found = step(states)
                return states, {k: b.at[i].set(found[k]) for k, b in buffers.items()}

            return jax.lax.fori_loop(0, n, body, (states, buffers))

        def episodes(state, keys):
            return evaluate(algo, state, keys)

        self.init = self._compiled(_over_seeds(algo.init, seeds))
        self.chunk = self._compiled(chunk, donate=(0,))
        self.evaluate = self._compiled(_over_seeds(episodes, seeds))
        if isinstance(algo, CollectsApart):
            # The new state alone: the data of the rollout need not leave the program.
            self.collect = self._compiled(_over_seeds(algo.collect_only, seeds))

    def _compiled(self, function: Callable, donate: tuple[int, ...] = ()) -> Callable:
        jitted, program = jax.jit(function, donate_argnums=donate), None

        def call(*arguments):
            nonlocal program
            if program is None:
                start = time.monotonic()
                program = jitted.lower(*arguments).compile()
                self.compile_s += time.monotonic() - start
            return program(*arguments)

        return call


def _over_seeds(function: Callable, seeds: int) -> Callable:
    """`vmap`; a single seed is computed without the extra axis, for which it would pay in slower products."""
    if seeds > 1:
        return jax.vmap(function)

    def single(*arguments):
        out = function(*jax.tree.map(lambda x: x[0], arguments))
        return jax.tree.map(lambda x: x[None], out)

    return single
