"""MuJoCo's JAX port: physics inside the compiled program, for GPUs.

Its products of matrices are computed in full float32: recent GPUs would otherwise round their factors to ten bits
(TF32), and coordinates would be off by some 1e-2 within a control step.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import mujoco
from jaxtyping import Array, Float

from envs.physics import features
from envs.physics.engine import PhysicsState, check_extras, check_overrides, check_sizes

with contextlib.redirect_stdout(
    io.StringIO()
):  # it prints that Warp, which is optional, is missing
    from mujoco import mjx


_full_precision = functools.partial(jax.default_matmul_precision, "highest")


class MjxEngine:
    """See `Engine`. MJX's own record is some fifty times larger than a `PhysicsState`, so it is rebuilt from a
    template at each control step instead of being carried (and copied by every `where`).

    Raises ValueError for a model with a feature that MJX lacks or ignores.
    """

    def __init__(self, model: mujoco.MjModel, substeps: int, extras: tuple[str, ...] = ()):
        check_extras(extras)
        features.require_supported(model, "mjx")
        model = copy.copy(model)
        model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_WARMSTART)
        self.model = model
        self.substeps = substeps
        self.extras = extras
        try:
            self._model = mjx.put_model(model)
            self._template = mjx.put_data(model, mujoco.MjData(model))
        except NotImplementedError as error:
            raise ValueError(
                f"the mjx backend lacks something of this model: {' '.join(str(error).split())}; "
                "the native backend computes it"
            ) from error

    def forward(self, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"]) -> PhysicsState:
        """See `Engine.forward`."""
        check_sizes(self.model, qpos=qpos, qvel=qvel)
        act = jnp.zeros(self.model.na, jnp.float32) if self.model.na else None
        state = PhysicsState(jnp.asarray(qpos, jnp.float32), jnp.asarray(qvel, jnp.float32), act)
        with _full_precision():
            return self._pack(mjx.forward(self._model, self._unpack(state)))

    def step(
        self,
        state: PhysicsState,
        ctrl: Float[Array, " nu"],
        overrides: Mapping[str, Array] | None = None,
    ) -> PhysicsState:
        """See `Engine.step`. Raises ValueError also for an override that MJX ignores."""
        check_sizes(self.model, ctrl=ctrl)
        check_overrides(self.model, overrides)
        features.require_read_by_mjx(self.model, overrides or {})
        model = self._model.replace(**dict(overrides)) if overrides else self._model
        data = self._unpack(state).replace(ctrl=jnp.asarray(ctrl, jnp.float32))
        with _full_precision():
            data = jax.lax.fori_loop(0, self.substeps, lambda _, d: mjx.step(model, d), data)
            return self._pack(data)

    def _unpack(self, state: PhysicsState) -> mjx.Data:
        data = self._template.replace(qpos=state.qpos, qvel=state.qvel)
        return data if state.act is None else data.replace(act=state.act)

    def _pack(self, data: mjx.Data) -> PhysicsState:
        if "cfrc_ext" in self.extras:
            data = mjx.rne_postconstraint(self._model, data)
        return PhysicsState(
            data.qpos,
            data.qvel,
            data.act if self.model.na else None,
            data.sensordata if self.model.nsensordata else None,
            {name: _field(data, name) for name in self.extras} or None,
        )


def _field(data: mjx.Data, name: str) -> Array:
    """MJX keeps some fields in a part that depends on its implementation."""
    return getattr(data._impl if hasattr(data._impl, name) else data, name)
