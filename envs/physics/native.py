"""C MuJoCo on host threads, as pure functions inside a JAX program.

A call crosses to the host once for the whole batch: seeds x environments arrive as one array and go through
`mujoco.rollout`'s thread pool, or, where states are to carry more of MjData than that returns, through Python threads
(see threads.py). Physics is computed in float64; states cross as float32.

Compiled programs hold on to the engine that they call, and JAX keeps programs for as long as the process lives. So the
threads are one pool for all engines, and environments of one model share one engine (`shared_engine`), whose programs
are then found again. An engine that nobody has goes when `jax.clear_caches()` drops its programs.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import threading
import weakref
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float
from mujoco.rollout import Rollout

from envs.callback import HostError, host_call, one_line
from envs.cores import usable_cores
from envs.physics import features
from envs.physics.engine import PhysicsState, check_extras, check_overrides, check_sizes
from envs.physics.optimised import digest, optimised_copy
from envs.physics.threads import ThreadedSteps
from envs.process import prepare_mujoco

_FULL = mujoco.mjtState.mjSTATE_FULLPHYSICS.value  # time, qpos, qvel, act, ...


class NativeEngine:
    """See `Engine`. `calls` counts the crossings to the host, `threads` is the size of the pool, `stepped` the model
    that steps: the `optimised_copy` of `model`, until a field is overridden."""

    def __init__(
        self,
        model: mujoco.MjModel,
        substeps: int,
        threads: int | None = None,
        extras: tuple[str, ...] = (),
    ):
        check_extras(extras)
        features.require_supported(model, "native")
        prepare_mujoco()
        self.model = _pure(model)
        self.substeps = substeps
        self.threads = threads or usable_cores()
        self.extras = extras
        self.calls = 0
        self._prepare(_pure(optimised_copy(model)))
        self._extra_shapes = {name: getattr(self._data[0], name).shape for name in extras}
        self._pool, self._lock = _pool(self.threads)
        self._state_size = mujoco.mj_stateSize(model, _FULL)
        self._moving = model.nq + model.nv + model.na
        self._buffers: dict[tuple[int, int], tuple[np.ndarray, ...]] = {}
        self._variants: dict[tuple[str, ...], list[mujoco.MjModel]] = {}  # by the fields overridden

    def forward(self, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"]) -> PhysicsState:
        """See `Engine.forward`."""
        check_sizes(self.model, qpos=qpos, qvel=qvel)
        act = jnp.zeros(self.model.na, jnp.float32) if self.model.na else None
        state = PhysicsState(
            jnp.asarray(qpos, jnp.float32), jnp.asarray(qvel, jnp.float32), act, None
        )
        ctrl = jnp.zeros(self.model.nu, jnp.float32)
        if self.extras:
            return self._call(state, ctrl, 0, None)
        if not self.model.nsensordata:
            return state
        # MuJoCo computes sensors at the start of a step, so one step's sensors are the given state's own.
        sensordata = self._call(state, ctrl, 1, None).sensordata
        return dataclasses.replace(state, sensordata=sensordata)

    def step(
        self,
        state: PhysicsState,
        ctrl: Float[Array, " nu"],
        overrides: Mapping[str, Array] | None = None,
    ) -> PhysicsState:
        """See `Engine.step`."""
        check_sizes(self.model, ctrl=ctrl)
        check_overrides(self.model, overrides)
        return self._call(state, ctrl, self.substeps, overrides)

    def _prepare(self, stepped: mujoco.MjModel) -> None:
        self.stepped = stepped
        self._data = [mujoco.MjData(stepped) for _ in range(self.threads)]
        self._steps = ThreadedSteps(self._data, self.extras) if self.extras else None

    def _call(self, state, ctrl, substeps, overrides) -> PhysicsState:
        model = self.model
        extra_sizes = [math.prod(shape) for shape in self._extra_shapes.values()]
        sizes = (model.nq, model.nv, model.na, model.nsensordata, *extra_sizes)
        # One packed array in and one out: a crossing costs per argument, not per byte.
        parts = [state.qpos, state.qvel, *([] if state.act is None else [state.act]), ctrl]
        packed = jnp.concatenate([jnp.asarray(p, jnp.float32) for p in parts])
        out = host_call(
            lambda packed, fields: self._advance(packed, fields, substeps),
            jax.ShapeDtypeStruct((sum(sizes),), jnp.float32),
            packed,
            dict(overrides or {}),
        )
        qpos, qvel, act, sensordata, *extras = jnp.split(out, np.cumsum(sizes)[:-1])
        shapes = self._extra_shapes.items()
        return PhysicsState(
            qpos,
            qvel,
            act if model.na else None,
            sensordata if model.nsensordata else None,
            {name: x.reshape(shape) for (name, shape), x in zip(shapes, extras, strict=True)}
            or None,
        )

    def _advance(self, packed, fields: dict, substeps: int) -> np.ndarray:
        """The host's side; numpy alone, for JAX must not be called from inside a callback."""
        packed = np.asarray(packed)
        batch = packed.shape[:-1]
        packed = packed.reshape(-1, packed.shape[-1])
        fields = {k: np.asarray(v) for k, v in fields.items()}
        n = packed.shape[0]
        try:
            features.require_no_callbacks()
        except ValueError as error:
            raise HostError(str(error)) from None
        with self._lock:
            self.calls += 1
            models = self._models(n, batch, fields)  # first: it may change what follows
            step = self._rollout if self._steps is None else self._steps
            try:
                out = step(models, packed, substeps)
            except mujoco.FatalError as error:
                raise HostError(f"MuJoCo failed in a step: {one_line(error)}") from error
        return out.reshape(*batch, out.shape[-1])

    def _rollout(self, models, packed: np.ndarray, substeps: int) -> np.ndarray:
        initial, control, states, sensors = self._workspace(len(models), substeps)
        initial[:, 1 : 1 + self._moving] = packed[:, : self._moving]
        control[:] = packed[:, None, self._moving :]
        self._pool.rollout(
            models,
            self._data,
            initial,
            control,
            skip_checks=True,
            nstep=substeps,
            state=states,
            sensordata=sensors,
            # Half of the default: while one thread does the last chunk, the others wait.
            chunk_size=max(1, len(models) // (20 * self.threads)),
        )
        last = states[:, -1]
        with np.errstate(over="ignore"):  # a diverged state; becomes NaN below
            out = np.concatenate(
                [last[:, 1 : 1 + self._moving], sensors[:, -1]],
                axis=1,
                dtype=np.float32,
                casting="same_kind",
            )
        # `rollout` stops where MuJoCo warns of a bad state, and repeats the last one: time gives it away.
        elapsed = substeps * self.model.opt.timestep
        out[~(np.abs(last[:, 0] - elapsed) < 1e-3 * self.model.opt.timestep)] = np.nan
        return out

    def _workspace(self, n: int, substeps: int) -> tuple[np.ndarray, ...]:
        key = (n, substeps)
        if key not in self._buffers:
            self._buffers[key] = (
                np.zeros((n, self._state_size)),
                np.zeros((n, substeps, self.model.nu)),
                np.zeros((n, substeps, self._state_size)),
                np.zeros((n, substeps, self.model.nsensordata)),
            )
        return self._buffers[key]

    def _models(self, n: int, batch: tuple[int, ...], fields: dict) -> list[mujoco.MjModel]:
        if not fields:
            return [self.stepped] * n
        if self.stepped is not self.model:  # the copy would take no notice of other friction
            self._prepare(self.model)
        variants = self._variants.setdefault(tuple(sorted(fields)), [])
        variants += [copy.copy(self.model) for _ in range(n - len(variants))]
        for name, value in fields.items():
            value = value.reshape(n, *value.shape[len(batch) :])
            for variant, v in zip(variants, value, strict=False):
                getattr(variant, name)[...] = v
        return variants[:n]


_SHARED: weakref.WeakValueDictionary[tuple, NativeEngine] = weakref.WeakValueDictionary()


def shared_engine(
    model: mujoco.MjModel, substeps: int, extras: tuple[str, ...] = ()
) -> NativeEngine:
    """The engine shared by all environments with this model's content, these substeps and extras, for as long as one of
    them, or a program compiled for it, lives. Do not change its model."""
    key = (digest(model), substeps, extras)
    engine = _SHARED.get(key)
    if engine is None:
        engine = _SHARED[key] = NativeEngine(model, substeps, extras=extras)
    return engine


@functools.cache
def _pool(size: int) -> tuple[Rollout, threading.Lock]:
    """The threads that all engines share, and the lock around them: two host threads in one pool crash it."""
    return Rollout(nthread=size), threading.Lock()


def _pure(model: mujoco.MjModel) -> mujoco.MjModel:
    """A copy whose steps depend on state and control alone."""
    # MuJoCo would turn a diverged state into a fresh one in mid-air, and would carry the solver's warm start
    # from whichever environment last used the thread: both break purity.
    model = copy.copy(model)
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_WARMSTART)
    if features.may_skip_islands(model):
        # Looking for islands of bodies that touch, in a world of one robot: the same numbers in 5 to 8% more time.
        model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_ISLAND)
    return model
