"""A base class for MuJoCo tasks: model, physics engine, spaces and pictures.

@flax.struct.dataclass
class MyRobot(MujocoEnv):
    xml = "my_robot.xml"  # in the same folder as this file
    substeps = 5  # steps of the model's timestep for each action

    forward_weight: float = 1.0  # a coefficient; may be swept under vmap
    max_episode_steps: int = static(500)

    def initial(self, key): ...  # self.at_rest(qpos, qvel)
    def observation(self, state): ...
    def reward(self, state, action, next_state): ...
    def terminal(self, state): ...
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from envs.base import Env, static
from envs.physics import Backend, PhysicsState, make_engine
from envs.physics.optimised import remember_file
from envs.physics.render import render


@flax.struct.dataclass
class MujocoEnv(Env[Any]):
    """Subclasses set `xml` and `substeps` and write `initial`, `observation`, `reward` and `terminal`. Fields are the
    task's options; `transition` applies the action to the actuators.

    The state is a `PhysicsState`. One that carries more is a record with a `PhysicsState` in it: its task overrides
    `physics`, which finds it, and `transition`, which makes the record.

    Engines are shared: to change the model, override `load_model`.

    Raises ValueError for an unknown backend, a model file that cannot be read, a model without actuators (unless the
    class has an `action_space` of its own) or with a feature that the engine refuses (docs/physics.md), or substeps or
    a time limit that are no positive integer.
    """

    xml: ClassVar[str | Path]  # the model; relative to the file of the class that sets it
    substeps: ClassVar[int] = 1
    extras: ClassVar[tuple[str, ...]] = ()  # fields of MjData that `PhysicsState.extras` is to hold
    reset_bank = 256

    backend: Backend = static("auto")
    engine: Any = static(None)
    max_episode_steps: int = static(1000)

    def __post_init__(self):
        super().__post_init__()
        if self.engine is None:
            engine = make_engine(self.load_model(), self.substeps, self.backend, self.extras)
            object.__setattr__(self, "engine", engine)  # of a frozen dataclass
        self.check_model()

    def check_model(self) -> None:
        """Raises ValueError for a model that the task cannot use; override to check more."""
        if not self.model.nu and type(self).action_space is MujocoEnv.action_space:
            raise ValueError(
                f"{type(self).__name__}'s model has no actuators: a policy could do nothing"
            )

    def load_model(self) -> mujoco.MjModel:
        """The model; override to change it in code."""
        return load_file(_path(type(self)))

    @property
    def model(self) -> mujoco.MjModel:
        """The engine's model; not to be changed."""
        return self.engine.model

    @property
    def dt(self) -> float:
        """Seconds between two actions."""
        return self.engine.substeps * self.model.opt.timestep

    @property
    def render_fps(self) -> int:  # type: ignore[override]
        """Actions a second, rounded, at least 1."""
        return max(1, round(1 / self.dt))

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Returns a Box of all finite float32 in the shape of `observation`; non-finite states are never observed."""
        # The key is made inside, so that nothing is computed: a forked process could not.
        shape = jax.eval_shape(lambda: self.observation(self.initial(jax.random.key(0)))).shape
        largest = np.finfo(np.float32).max
        return gymnasium.spaces.Box(-largest, largest, shape, np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        """The actuators' control ranges; every finite number for actuators without one."""
        limited = self.model.actuator_ctrllimited.astype(bool)
        largest = np.finfo(np.float32).max
        low, high = (
            np.where(limited, bound, sign * largest).astype(np.float32)
            for bound, sign in zip(self.model.actuator_ctrlrange.T, (-1, 1), strict=True)
        )
        return gymnasium.spaces.Box(low, high, dtype=np.float32)

    def at_rest(
        self, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"] | None = None
    ) -> PhysicsState:
        """The state with these coordinates and speeds (zero, if not given), sensors included."""
        return self.engine.forward(qpos, jnp.zeros(self.model.nv) if qvel is None else qvel)

    def physics(self, state: Any) -> PhysicsState:
        """The physics' part of a state, or of a batch of states."""
        return state

    def transition(
        self,
        state: Any,
        action: Array,
        key: PRNGKeyArray,
        overrides: Mapping[str, Array] | None = None,
    ) -> Any:
        """The physics after one action, held for `dt` seconds. Deterministic.

        Args:
          overrides: fields of the model by name, replaced for this one environment; see `Engine.step`.
        """
        del key
        return self.engine.step(self.physics(state), action, overrides)

    def render(self, state: Any, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
        """An RGB image of the state, by MuJoCo's renderer or drawn; see `envs.physics.render`."""
        return render(self.model, np.asarray(self.physics(state).qpos), width, height)


def load_file(path: Path) -> mujoco.MjModel:
    """The model in an XML file. Raises ValueError, with the file's name, if there is none or it cannot be read."""
    if not path.is_file():
        raise ValueError(f"there is no model file {path}")
    try:
        return remember_file(mujoco.MjModel.from_xml_path(str(path)), path)
    except ValueError as error:
        raise ValueError(f"{path} is no model: {' '.join(str(error).split())}") from error


def _path(env_type: type) -> Path:
    for parent in env_type.__mro__:
        if "xml" in vars(parent):
            path = Path(vars(parent)["xml"])
            # A class typed in at a prompt has no file.
            return path if path.is_absolute() else Path(inspect.getfile(parent)).parent / path
    raise ValueError(f"{env_type.__name__} names no model: set its attribute `xml`")
