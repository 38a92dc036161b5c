"""The compiled programs of a run. Each is traced and compiled once, and the time that the run waits for it is added up.

The programs of a command have been traced before, to see how much memory they need. `Programs.compile_ahead` compiles
these at the same time, in threads of their own: XLA does most of its work in one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from agents.algorithm import CollectsApart, Learner, LearnsApart
from experiments.actors.learner import Elsewhere
from experiments.evaluation.evaluator import evaluator
from experiments.run.devices import Spread, share_of
from experiments.run.spec import Spec, learner

MAX_CHUNK = 2048  # iterations
# LLVM's passes, of which XLA asks for level 3, are most of a transformer's compilation. Levels 1 and 2 gave the same
# numbers where they were tried: the start of grpo bit for bit, and the figures of its evaluation. At level 2 an
# iteration takes no longer than at level 3.
_FOR_ONCE, _FOR_LONG = ({"xla_backend_optimization_level": level} for level in (1, 2))


class Program:
    """A function that is traced on first inspection, and compiled at the first call, for the shapes of that call."""

    def __init__(
        self,
        owner: Programs,
        function: Callable,
        donate: tuple[int, ...] = (),
        options: dict[str, Any] | None = None,
    ):
        self._owner = owner
        self._options = options
        self._jitted = jax.jit(function, donate_argnums=donate)
        self._traced: Any = None
        self._compiled: Any = None
        self._ahead: Future[Any] | None = None  # of the compiled program

    def jaxpr(self, *arguments: Any) -> ClosedJaxpr:
        """Returns the program for arguments that may be `jax.ShapeDtypeStruct`s."""
        return self._trace(arguments).jaxpr

    def shapes(self, *arguments: Any) -> Any:
        """Returns the shapes and dtypes of the program's results for such arguments."""
        return self._trace(arguments).out_info

    def __call__(self, *arguments: Any) -> Any:
        if self._compiled is None:
            with self._owner.building():
                if self._ahead is None:
                    self._compiled = self._trace(arguments).lower().compile(self._options)
                else:
                    self._compiled = self._ahead.result()
            self._traced = None  # of no further use
        return self._compiled(*arguments)

    def compile_ahead(self, pool: ThreadPoolExecutor, lowering: threading.Lock) -> None:
        """Compiles the program in a thread of the pool, if it has been traced and is not compiled yet. Lowering holds
        the lock: it is Python, and two at once would only delay the first."""
        traced = self._traced

        def compiled() -> Any:
            with lowering:
                lowered = traced.lower()
            return lowered.compile(self._options)

        if traced is not None and self._compiled is None and self._ahead is None:
            self._ahead = pool.submit(compiled)

    @property
    def is_compiling(self) -> bool:
        """True while a thread compiles the program, or is going to."""
        return self._ahead is not None and not self._ahead.done()

    def wait(self) -> None:
        """Waits until no thread compiles the program."""
        if self._ahead is not None:
            self._ahead.exception()

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

    Args:
      slow_to_compile: LLVM optimises less, `init` and `evaluate` least, which take less time than their compilation.
      part, spread: on several devices, the learner of one device's part, and the devices (`experiments.run.devices`).
    """

    def __init__(
        self,
        algo: Learner,
        seeds: int,
        evaluate: Callable[[Any, Any, Any], Any],
        part: Learner | None = None,
        spread: Spread | None = None,
        data: Any = None,
        slow_to_compile: bool = False,
    ):
        # What `step` takes besides, shared by all seeds.
        self.given = () if data is None else (data,)
        # Changes the first states of a run.
        self.begin: Callable[[Any], Any] = lambda states: states
        self.compile_s = 0.0
        self.is_building = False
        self.elsewhere: Elsewhere | None = None
        self.iteration_steps = algo.iteration_steps
        self.spread = spread
        # Around so many iterations, in which other processes may have a part.
        self.together: Callable[[int], Any] = contextlib.nullcontext
        acting = part or algo
        over = spread.over if spread else lambda function, metrics: function
        step = _over_seeds(acting.step, seeds) if data is None else _with_data(acting.step, seeds)
        # Traced once, though `chunk` asks for its shapes before it calls it; the program has no trace of it.
        step = jax.jit(step, inline=True)

        def chunk(states, n, *given):
            shapes = jax.eval_shape(step, states, *given)[1]
            buffers = {k: jnp.zeros((MAX_CHUNK, *x.shape)) for k, x in shapes.items()}

            def body(i, carry):
                states, buffers = carry
                states, found = step(states, *given)
                return states, {k: b.at[i].set(found[k]) for k, b in buffers.items()}

            return jax.lax.fori_loop(0, n, body, (states, buffers))

        def episodes(state, keys):
            return evaluate(algo, state, keys)

        less = slow_to_compile and jax.default_backend() == "cpu"
        once, long = (_FOR_ONCE, _FOR_LONG) if less else (None, None)
        self.init = Program(self, _over_seeds(algo.init, seeds), options=once)
        self.chunk = Program(self, over(chunk, True), donate=(0,), options=long)
        self.evaluate = Program(self, _over_seeds(episodes, seeds), options=once)
        if isinstance(acting, CollectsApart):
            # The new state alone: the data of the rollout need not leave the program.
            collect = _over_seeds(acting.collect_only, seeds)
            self.collect = Program(self, over(collect, False))

    def advance(self, states: Any, n: int) -> tuple[Any, dict[str, Any]]:
        """Returns the states after `n` iterations, and metrics, of which `n` rows are filled. Donates the states.

        Waits until nothing is compiled any more: the speed of training is that of a machine that does nothing else.
        """
        with self.building():
            for program in self._programs():
                program.wait()
        if self.elsewhere:
            return self.elsewhere.advance(states, n)
        states = self.spread.place(states) if self.spread else states
        with self.together(n):
            return self.chunk(states, jnp.int32(n), *self.given)

    def compile_ahead(self, from_start: bool) -> None:
        """Compiles the programs of a run that have been traced at the same time, and returns at once.

        Args:
          from_start: the run begins with `init`; False: it resumes.
        """
        wanted = [
            *([self.init] if from_start else []),
            *([] if self.elsewhere else [self.chunk]),
            self.evaluate,
        ]
        pool, lowering = ThreadPoolExecutor(min(len(wanted), os.cpu_count() or 1)), threading.Lock()
        for program in wanted:
            program.compile_ahead(pool, lowering)
        pool.shutdown(wait=False)  # after what it has been given

    @property
    def is_compiling(self) -> bool:
        """True while threads compile programs, for which the end of the process would wait."""
        return any(program.is_compiling for program in self._programs())

    def _programs(self) -> tuple[Program, ...]:
        return self.init, self.chunk, self.evaluate

    def start(self, keys: Any) -> Any:
        """Returns the states from which training begins: those of `init`, changed by `begin`."""
        return self.begin(self.init(keys))

    def gather(self, states: Any) -> Any:
        """Returns the states where `evaluate`, and a file, take them."""
        return self.spread.gather(states) if self.spread else states

    def learn(self, algo: LearnsApart) -> Program:
        """Returns the second half of an iteration, of one seed: (states, steps) to states and metrics. The states given
        are donated."""
        return Program(self, _over_seeds(algo.improve, 1), donate=(0,))

    def settled(self, states: Any) -> tuple[Any, dict[str, Any]]:
        """Returns the states as a checkpoint keeps them, and the counts of actors, {} where there are none."""
        if self.elsewhere is None:
            return states, {}
        return self.elsewhere.settled(states), dataclasses.asdict(self.elsewhere.meter.total)

    def resume(self, counts: dict[str, Any]) -> None:
        """Goes on from the counts of a checkpoint."""
        if self.elsewhere:
            self.elsewhere.meter.resume(counts)

    def close(self) -> None:
        """Ends the actors, where there are any."""
        if self.elsewhere:
            self.elsewhere.close()

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


def programs_of(spec: Spec, algo: Any, data: Any = None) -> Programs:
    """Returns the programs of a run. `data`: of `step`; None for algorithms that make their own."""
    evaluate, slow = evaluator(spec.domain).run, spec.domain == "tokens"
    if spec.devices == 1:
        return Programs(algo, spec.seeds, evaluate, data=data, slow_to_compile=slow)
    part = dataclasses.replace(spec, config=share_of(spec.config, spec.devices, spec.domain))
    return Programs(algo, spec.seeds, evaluate, learner(part, algo.env), Spread(spec.devices))


def _with_data(step: Callable, seeds: int) -> Callable:
    """Returns `step` over seeds of the states, which share the data."""
    if seeds > 1:
        return jax.vmap(step, in_axes=(0, None))

    def single(states, data):
        out = step(jax.tree.map(lambda x: x[0], states), data)
        return jax.tree.map(lambda x: x[None], out)

    return single


def _over_seeds(function: Callable, seeds: int) -> Callable:
    """Applies `vmap`; a single seed is computed without the extra axis, which would slow its products."""
    if seeds > 1:
        return jax.vmap(function)

    def single(*arguments):
        out = function(*jax.tree.map(lambda x: x[0], arguments))
        return jax.tree.map(lambda x: x[None], out)

    return single
