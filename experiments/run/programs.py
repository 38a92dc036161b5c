"""The compiled programs of a run. Each is traced and compiled once, and the time for that is added up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from agents.algorithm import CollectsApart, Learner
from experiments.evaluation.evaluator import evaluator
from experiments.run.spec import Spec

MAX_CHUNK = 2048  # iterations


class Program:
    """A function that is traced on first inspection, and compiled at the first call, for the shapes of that call."""

    def __init__(self, owner: Programs, function: Callable, donate: tuple[int, ...] = ()):
        self._owner = owner
        self._jitted = jax.jit(function, donate_argnums=donate)
        self._traced: Any = None
        self._compiled: Any = None

    def jaxpr(self, *arguments: Any) -> ClosedJaxpr:
        """Returns the program for arguments that may be `jax.ShapeDtypeStruct`s."""
        return self._trace(arguments).jaxpr

    def shapes(self, *arguments: Any) -> Any:
        """Returns the shapes and dtypes of the program's results for such arguments."""
        return self._trace(arguments).out_info

    def __call__(self, *arguments: Any) -> Any:
        if self._compiled is None:
            with self._owner.building():
                self._compiled = self._trace(arguments).lower().compile()
            self._traced = None  # of no further use
        return self._compiled(*arguments)

    def _trace(self, arguments: tuple[Any, ...]) -> Any:
        if self._traced is None:
            with self._owner.building():
                self._traced = self._jitted.trace(*arguments)
        return self._traced


class Programs:
    """Compiled programs of a run; all take and return states with a leading axis of seeds.

    init(keys) -> states
    chunk(states, n) -> states after n iterations, and metrics [MAX_CHUNK, seeds] of which n are filled; the input
      states are donated. `n` is an argument of the program, so one program serves every length, and results do not
      depend on it.
    collect(states) -> states after the rollout of an iteration, to time it
    evaluate(states, keys [seeds, N]) -> results of the function `evaluate` of (algo, state, keys), leading axis seeds
    """

    def __init__(self, algo: Learner, seeds: int, evaluate: Callable[[Any, Any, Any], Any]):
        self.compile_s = 0.0
        self.is_building = False
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

        self.init = Program(self, _over_seeds(algo.init, seeds))
        self.chunk = Program(self, chunk, donate=(0,))
        self.evaluate = Program(self, _over_seeds(episodes, seeds))
        if isinstance(algo, CollectsApart):
            # The new state alone: the data of the rollout need not leave the program.
            self.collect = Program(self, _over_seeds(algo.collect_only, seeds))

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """Adds up the time within; once only where one building contains another."""
        if self.is_building:
            yield
            return
        self.is_building, start = True, time.monotonic()
        try:
            yield
        finally:
            self.compile_s += time.monotonic() - start
            self.is_building = False


def programs_of(spec: Spec, algo: Any) -> Programs:
    """Returns the programs of a run."""
    return Programs(algo, spec.seeds, evaluator(spec.domain).run)


def _over_seeds(function: Callable, seeds: int) -> Callable:
    """Applies `vmap`; a single seed is computed without the extra axis, which would slow its products."""
    if seeds > 1:
        return jax.vmap(function)

    def single(*arguments):
        out = function(*jax.tree.map(lambda x: x[0], arguments))
        return jax.tree.map(lambda x: x[None], out)

    return single
