"""What every physics engine offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import flax.struct
import mujoco
from jaxtyping import Array, Float


@flax.struct.dataclass
class PhysicsState:
    """The same small record in every engine; float32. Fields a model does not have are None."""

    qpos: Any  # [nq]
    qvel: Any  # [nv]
    act: Any = None  # [na]
    sensordata: Any = None  # [nsensordata]
    extras: Any = None


@runtime_checkable
class Engine(Protocol):
    """Physics as pure functions of one state; `vmap` makes batches.

    Sensors: after `step` they are as MuJoCo leaves them, computed at the start of the last substep (the same in
    every engine); after `forward` they belong to the state exactly.
    """

    model: mujoco.MjModel
    substeps: int

    def forward(self, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"]) -> PhysicsState:
        """A state with its sensors, without advancing time. Controls are zero."""
        ...

    def step(
        self,
        state: PhysicsState,
        ctrl: Float[Array, " nu"],
        overrides: Mapping[str, Array] | None = None,
    ) -> PhysicsState:
        """Holds `ctrl` over the substeps; the solver starts cold, so the result depends on the arguments alone.

        A simulation that diverges returns NaN. `overrides` replaces fields of the model by name for this one
        environment (say `{"geom_friction": [ngeom, 3]}`).
        """
        ...
