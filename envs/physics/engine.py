"""The interface of physics engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import flax.struct
import mujoco
import numpy as np
from jaxtyping import Array, Float

# Fields of MjData that states can carry. Others have sizes that change from step to step, or follow from these.
EXTRAS = (
    "xpos",
    "xquat",
    "xipos",
    "site_xpos",
    "subtree_com",
    "qacc",
    "qfrc_actuator",
    "qfrc_constraint",
    "cinert",
    "cvel",
    "cfrc_ext",
)


def check_extras(names: tuple[str, ...]) -> None:
    """Raises ValueError for a name that is not among EXTRAS."""
    unknown = [name for name in names if name not in EXTRAS]
    if unknown:
        raise ValueError(f"no engine serves {', '.join(unknown)}: extras are {', '.join(EXTRAS)}")


def check_sizes(model: mujoco.MjModel, **vectors: Any) -> None:
    """Raises ValueError for a vector that is not of the model's size of its name (qpos, qvel or ctrl). NumPy would
    repeat a vector of one number for all coordinates or actuators."""
    sizes = {"qpos": model.nq, "qvel": model.nv, "ctrl": model.nu}
    for name, vector in vectors.items():
        if np.shape(vector) != (sizes[name],):
            raise ValueError(
                f"{name} must have the shape ({sizes[name]},) of the model's, got {np.shape(vector)}"
            )


def check_overrides(model: mujoco.MjModel, overrides: Mapping[str, Any] | None) -> None:
    """Raises ValueError for a name that is no field of numbers of MjModel's."""
    unknown = [
        name for name in overrides or () if not isinstance(getattr(model, name, None), np.ndarray)
    ]
    if unknown:
        raise ValueError(f"MjModel has no field of numbers called {', '.join(unknown)}")


@flax.struct.dataclass
class PhysicsState:
    """The same small record in every engine; float32. Fields a model does not have are None."""

    qpos: Any  # [nq]
    qvel: Any  # [nv]
    act: Any = None  # [na]
    sensordata: Any = None  # [nsensordata]
    extras: Any = None  # {name: as in MjData}, the fields that the engine was asked for


@runtime_checkable
class Engine(Protocol):
    """Physics as pure functions of one state; `vmap` makes batches.

    Sensors and extras belong to the state exactly after `forward`. After `step` they are as MuJoCo leaves them. With
    the Euler and implicit integrators that is the start of the last substep, in every engine. With RK4 extras are
    those of its fourth stage, an estimate of the substep's end, in every engine; sensors are those of the start on
    `native`, but of the fourth stage on `mjx`.
    """

    model: mujoco.MjModel
    substeps: int
    extras: tuple[str, ...]

    def forward(self, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"]) -> PhysicsState:
        """A state with its sensors and extras, without advancing time. Controls are zero.

        Raises ValueError for a vector of another size than the model's.
        """
        ...

    def step(
        self,
        state: PhysicsState,
        ctrl: Float[Array, " nu"],
        overrides: Mapping[str, Array] | None = None,
    ) -> PhysicsState:
        """Holds `ctrl` over the substeps; the solver starts cold, so the result depends on the arguments alone.

        A simulation that diverges returns NaN. `overrides` replaces fields of the model by name for this one
        environment (say `{"geom_friction": [ngeom, 3]}`). Raises ValueError for a `ctrl` of another size than nu,
        or an override that the model, or the engine, has no field for.
        """
        ...
