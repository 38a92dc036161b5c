"""The base class of Gymnasium's MuJoCo tasks."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import mujoco
from jaxtyping import Array, Float, PRNGKeyArray

from envs.base import require_count, static
from envs.mujoco_env import MujocoEnv, load_file
from envs.options import check_options
from envs.physics import PhysicsState

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"


@flax.struct.dataclass
class GymnasiumMujoco(MujocoEnv):
    """`xml_file` is a name among Gymnasium's models, or a path that starts with `.`, `/` or `~`; an action is held
    for `frame_skip` steps of the model. Numeric options are leaves; those that change shapes or branches are static.

    The reward is the sum of `reward_terms`; `info` adds `measurements` to them. Raises ValueError for a model file
    that is missing or lacks what the task needs, and for an impossible number.
    """

    fewest_dofs: ClassVar[int] = 1  # degrees of freedom that the task looks at

    xml_file: str = static("")
    frame_skip: int = static(1)

    def __post_init__(self):
        require_count("frame_skip", self.frame_skip)
        check_options(self)
        super().__post_init__()

    def check_model(self) -> None:
        """Raises ValueError for a model with fewer degrees of freedom than `fewest_dofs`, or no actuator."""
        self._require("degrees of freedom", self.model.nv, self.fewest_dofs)
        self._require("actuators", self.model.nu, 1)

    @property
    def substeps(self) -> int:  # type: ignore[override]
        """Steps of the model for each action: `frame_skip`."""
        return self.frame_skip

    def load_model(self) -> mujoco.MjModel:
        """The model in `xml_file`, without MuJoCo's warnings. Raises ValueError if it cannot be read."""
        is_path = self.xml_file.startswith((".", "/", "~"))
        path = Path(self.xml_file).expanduser() if is_path else ASSETS / self.xml_file
        # Gymnasium's own files use attributes that are out of date, which MuJoCo would say at each start.
        warn = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(lambda message: None)
        try:
            return load_file(path)
        finally:
            mujoco.set_mju_user_warning(warn)

    def body(self, name: str | int) -> int:
        """The index of a body, given as an index or by name. Raises ValueError if the model has none."""
        if isinstance(name, int):
            if not 0 <= name < self.model.nbody:
                raise ValueError(
                    f"{self.xml_file} has bodies 0 to {self.model.nbody - 1}, not {name}"
                )
            return name
        index = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_BODY, name)
        if index < 0:
            raise ValueError(
                f"{self.xml_file} has no body {name!r}, which {type(self).__name__} needs"
            )
        return index

    def _require(self, what: str, there: int, fewest: int) -> None:
        if there < fewest:
            raise ValueError(
                f"{self.xml_file} has {there} {what}: {type(self).__name__} needs {fewest} or more"
            )

    def near_rest(
        self, key: PRNGKeyArray, scale: float | Array, gaussian_speeds: bool = False
    ) -> PhysicsState:
        """The model's pose with noise: coordinates U(-scale, scale), speeds the same or N(0, scale^2)."""
        position_key, speed_key = jax.random.split(key)
        qpos = uniform(position_key, self.model.nq, scale)
        if gaussian_speeds:
            qvel = scale * jax.random.normal(speed_key, (self.model.nv,))
        else:
            qvel = uniform(speed_key, self.model.nv, scale)
        return self.at_rest(jnp.asarray(self.model.qpos0, jnp.float32) + qpos, qvel)

    def reward_terms(
        self, state: PhysicsState, action: Array, next_state: PhysicsState
    ) -> dict[str, Array]:
        """The terms of the reward, by Gymnasium's names."""
        raise NotImplementedError

    def measurements(self, state: PhysicsState, next_state: PhysicsState) -> dict[str, Array]:
        """Scalars that Gymnasium reports beside the terms of the reward, by Gymnasium's names."""
        return {}

    def reward(self, state: PhysicsState, action: Array, next_state: PhysicsState) -> Array:
        """The sum of `reward_terms`."""
        return sum(self.reward_terms(state, action, next_state).values(), start=jnp.zeros(()))

    def info(
        self, state: PhysicsState, action: Array, next_state: PhysicsState
    ) -> dict[str, Array]:
        """`measurements` and `reward_terms`."""
        terms = self.reward_terms(state, action, next_state)
        return self.measurements(state, next_state) | terms

    def terminal(self, state: PhysicsState) -> Array:
        """False, unless a task overrides it."""
        return jnp.zeros((), bool)


def uniform(key: PRNGKeyArray, size: int, scale: float | Array) -> Float[Array, " size"]:
    """Numbers from U(-scale, scale)."""
    return scale * jax.random.uniform(key, (size,), minval=-1.0, maxval=1.0)


def squared(x: Array) -> Float[Array, ""]:
    """The sum of squares."""
    return jnp.sum(jnp.square(x))
