"""Steps of a batch on Python threads, for fields of MjData that `mujoco.rollout` does not return.

MuJoCo's functions release Python's lock, so the threads do run at once.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import mujoco
import numpy as np
from jaxtyping import Float

_State = mujoco.mjtState
_PACKED = sum(
    part.value
    for part in (
        _State.mjSTATE_TIME,
        _State.mjSTATE_QPOS,
        _State.mjSTATE_QVEL,
        _State.mjSTATE_ACT,
        _State.mjSTATE_CTRL,
    )
)
_FEWEST = 4  # environments that are worth a thread of their own


class ThreadedSteps:
    """Steps on at most one thread for each of `data`. To be called by one thread at a time."""

    def __init__(self, data: Sequence[mujoco.MjData], extras: tuple[str, ...]):
        self._workers = [_Worker(d, extras) for d in data]
        self._executor = _executor(len(data))

    def __call__(
        self,
        models: Sequence[mujoco.MjModel],
        packed: Float[np.ndarray, "n state_and_ctrl"],
        substeps: int,
    ) -> Float[np.ndarray, "n out"]:
        """Maps (qpos, qvel, act, ctrl) to (qpos, qvel, act, sensordata, extras ...), float32, after `substeps` steps;
        with 0 substeps, to the result of `mj_forward`. A simulation that diverges returns NaN."""
        n = len(models)
        packed = np.concatenate([np.zeros((n, 1)), packed], axis=1, dtype=np.float64)  # time: 0
        chunks = max(1, min(len(self._workers), n // _FEWEST))
        bounds = [n * k // chunks for k in range(chunks + 1)]

        def work(k: int) -> np.ndarray:
            part = slice(bounds[k], bounds[k + 1])
            return self._workers[k].run(models[part], packed[part], substeps)

        if chunks == 1:
            return work(0)
        return np.concatenate(list(self._executor.map(work, range(chunks))))


def _place_mocap(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    """Puts bodies that nothing but a program moves where the model has them, as `mujoco.rollout` does."""
    bodies = np.flatnonzero(model.body_mocapid >= 0)
    order = model.body_mocapid[bodies]
    quat = model.body_quat[bodies]
    data.mocap_pos[order] = model.body_pos[bodies]
    data.mocap_quat[order] = quat / np.linalg.norm(quat, axis=1, keepdims=True)


@functools.cache
def _executor(threads: int) -> ThreadPoolExecutor:
    """Returns the thread pool that all engines share."""
    return ThreadPoolExecutor(threads, "physics")


class _Worker:
    """An MjData, and views of the fields that are copied out."""

    def __init__(self, data: mujoco.MjData, extras: tuple[str, ...]):
        names = ("qpos", "qvel", "act", "sensordata", *extras)
        views = [getattr(data, name).reshape(-1) for name in names]
        self._data = data
        self._out = [view for view in views if view.size]
        self._forces = "cfrc_ext" in extras
        self._warnings = data.warning.number

    def run(self, models, packed: np.ndarray, substeps: int) -> np.ndarray:
        out = np.full((len(models), sum(x.size for x in self._out)), np.nan, np.float32)
        # float32 holds numbers that MuJoCo does not take.
        taken = np.flatnonzero((np.abs(packed) < mujoco.mjMAXVAL).all(1)).tolist()
        self._warnings[:] = 0
        with np.errstate(over="ignore"):
            for i in taken:
                self._advance(models[i], packed[i], substeps)
                np.concatenate(self._out, out=out[i], casting="same_kind")
        # Looked for once for all: a warning is rare, and a look is a tenth of the time of a short step.
        if self._warnings.any():
            for i in taken:
                self._warnings[:] = 0
                self._advance(models[i], packed[i], substeps)
                if self._warnings.any():
                    out[i] = np.nan
        return out

    def _advance(self, model: mujoco.MjModel, packed: np.ndarray, substeps: int) -> None:
        mujoco.mj_setState(model, self._data, packed, _PACKED)
        if model.neq:  # which of them hold is the model's, and may be overridden
            self._data.eq_active[:] = model.eq_active0
        if model.nmocap:
            _place_mocap(model, self._data)
        if substeps:
            mujoco.mj_step(model, self._data, substeps)
        else:
            mujoco.mj_forward(model, self._data)
        if self._forces:
            mujoco.mj_rnePostConstraint(model, self._data)
