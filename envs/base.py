"""The environment contract, and the one function that turns an environment into the steps that learners see.

An environment is a Markov decision process written as pure functions of one state; `jax.vmap` makes batches.
`step` adds the end of episodes, resets and the time limit, here, for all environments.
"""

from __future__ import annotations

import dataclasses
import enum
import numbers
import sys
from typing import Any, Generic, NamedTuple, TypeVar

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from envs.process import require_single_precision

State = TypeVar("State")

_COUNT_LIMIT = 2**31  # counts have 32 bits

ALL_EPISODES = sys.maxsize  # a number of episodes to record: every one


def static(default: Any = dataclasses.MISSING) -> Any:
    """Declares a static field of an environment: it is no leaf of the pytree, and a change of its value triggers
    recompilation."""
    return flax.struct.field(pytree_node=False, default=default)


class Env(Generic[State]):
    """A Markov decision process. Subclasses are frozen pytrees (`@flax.struct.dataclass`): coefficients one may
    want to sweep are leaves, everything else is `static`.

    The vocabulary is that of Gymnasium's `FuncEnv`. Every method takes and returns single, unbatched values.
    """

    max_episode_steps: int  # episodes are truncated after this many steps
    # Start states that a rollout draws at once, from which its episodes restart; 0: each restart is drawn afresh.
    # Worth it where a reset costs a call to the physics.
    reset_bank: int = 0
    # Every finite state is known to have a finite observation: `advance` need not look, which in environments of a few
    # sums would take a good part of a step.
    finite_observations: bool = False
    on_host: bool = False  # runs on the host; a state cannot be stepped twice
    render_fps: float | None = None  # steps a second, for videos; None: there is nothing to see
    # Episodes that `episode_report` needs, at least; an evaluation then keeps the states of all its episodes, in full.
    # 0: there is no report, and only what a video shows is kept.
    recorded_episodes: int = 0

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # The class becomes a static field of its environments. JAX 0.10 takes two registered dataclasses for one
        # structure wherever their static fields and the numbers of their leaves agree, whatever the classes: a function
        # jitted once and called with both would now and then run the other's program.
        static = {"pytree_node": False}
        cls.__annotations__["_kind"] = type
        cls._kind = dataclasses.field(default=cls, kw_only=True, repr=False, metadata=static)

    def __post_init__(self):
        """Raises ValueError for a time limit that is no positive integer. Subclasses that check more call it."""
        fields = {field.name: field for field in dataclasses.fields(self)}
        limit = fields.get("max_episode_steps")
        # While JAX takes an environment apart and puts it together again, leaves are tracers and placeholders.
        if limit is not None and not limit.metadata.get("pytree_node", True):
            require_count("max_episode_steps", self.max_episode_steps)

    @property
    def observation_space(self) -> gymnasium.Space:
        """The space of `observation`, of 32-bit numbers at most."""
        raise NotImplementedError

    @property
    def action_space(self) -> gymnasium.Space:
        """The space of actions, of 32-bit numbers at most. Learners scale [-1, 1] to the bounds of a Box."""
        raise NotImplementedError

    def initial(self, key: PRNGKeyArray) -> State:
        """s0 ~ p(s0). Domain parameters of the episode are drawn here too and live in the state."""
        raise NotImplementedError

    def transition(self, state: State, action: Array, key: PRNGKeyArray) -> State:
        """s' ~ p(s' | s, a). Sensor noise is drawn here, into the state."""
        raise NotImplementedError

    def observation(self, state: State) -> PyTree[Array]:
        """The observation of `state`, a pytree in `observation_space`. No random numbers: noise is drawn by
        `transition`."""
        raise NotImplementedError

    def reward(self, state: State, action: Array, next_state: State) -> Array:
        """r(s, a, s'), a float scalar."""
        raise NotImplementedError

    def terminal(self, state: State) -> Array:
        """True if the process ends in `state`, a bool scalar. The time limit does not count."""
        raise NotImplementedError

    def truncated(self, state: State) -> Array:
        """True if the episode is cut off in `state` for a reason outside the process, a bool scalar. The time limit is
        `max_episode_steps`, not this."""
        return jnp.zeros((), bool)

    def restart(self, state: State, key: PRNGKeyArray) -> State:
        """The start of the episode after the one that ended in `state`: any start, unless the environment runs on the
        host."""
        return self.initial(key)

    def stand_in(self, state: State, next_state: State) -> State:
        """The state that replaces a `next_state` which is not finite, or whose observation or reward is not: by default
        `state`, the last good one. The episode ends there."""
        return state

    def info(self, state: State, action: Array, next_state: State) -> dict[str, Array]:
        """Scalars to record, by name (reward terms and the like); their means become metrics."""
        return {}

    def render(self, state: State, width: int, height: int) -> np.ndarray:
        """An RGB image of one state, uint8 [height, width, 3]; on the host, with NumPy leaves.

        Raises NotImplementedError for an environment with nothing to see.
        """
        raise NotImplementedError(f"{type(self).__name__} has nothing to draw")

    def episode_report(
        self, states: State, alive: Bool[np.ndarray, "T N"], returns: Float[np.ndarray, " N"]
    ) -> dict[str, Any]:
        """Measures of N whole episodes for the summary of a run: numbers, True or False, by name; they are averaged
        over seeds. Pages also know the names `distance_m` and `gait`, a dictionary of measures. On the host, in
        NumPy; called where `recorded_episodes` is not 0.

        Args:
          states: leaves [T, N, ...], the state after step t; once an episode has ended, its last one.
          alive: step t was taken, the one that ended the episode included.
          returns: sums of rewards.
        """
        return {}

    def goals(self, report: dict[str, Any]) -> dict[str, bool]:
        """Goals of the task by name, and whether an `episode_report` reaches them. A run notes when its policy reached
        each of them for the first time. On the host."""
        return {}

    def caption(self, states: State, rewards: Float[np.ndarray, " T"], t: int) -> tuple[str, ...]:
        """Texts side by side in the upper left corner of a video's picture of step `t`. None: time and return so far
        are written in the upper right corner.

        Args:
          states: of the whole episode, leaves [T, ...] in NumPy.
          rewards: of its steps.
        """
        return ()

    def at(self, env_steps: Array | float) -> Env[State]:
        """The environment after `env_steps` steps of training, where a curriculum changes it.

        Learners call it once an iteration; evaluation uses `at(inf)`.
        """
        return self


def require_count(name: str, value: Any) -> None:
    """Raises ValueError unless the value is an integer of at least 1 that fits into 32 bits."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    if int(value) >= _COUNT_LIMIT:
        raise ValueError(f"{name} must be below {_COUNT_LIMIT}, got {value}")


def require_32_bits(space: gymnasium.Space, what: str) -> None:
    """Raises ValueError, about `what` ("the actions of X"), for a space of whole numbers beyond 32 bits, of which JAX
    would keep the last 32."""
    widest = np.iinfo(np.int32)
    if isinstance(space, gymnasium.spaces.Discrete):
        low, high = int(space.start), int(space.start) + int(space.n) - 1
    elif isinstance(space, gymnasium.spaces.Box) and np.issubdtype(space.dtype, np.integer):
        if space.dtype.itemsize <= widest.dtype.itemsize or not space.low.size:
            return
        low, high = int(space.low.min()), int(space.high.max())
    else:
        return
    if low < widest.min or high > widest.max:
        raise ValueError(
            f"{what} are {space.dtype} and go beyond 32 bits, which JAX does not hold here: from {low} to {high}; "
            "wrap the environment (see gymnasium.wrappers) and register the result"
        )


class Running(NamedTuple):
    """An episode under way."""

    state: Any  # the environment's own state
    t: Array  # int32 [], steps taken in this episode


class Timestep(NamedTuple):
    """The result of one step. `terminated` and `truncated` are never both set."""

    obs: Any  # where the next action is chosen: after a reset, the new episode's first observation
    reward: Array  # float32 []
    terminated: Array  # bool []: the process ended; its value is zero from here
    truncated: Array  # bool []: the time limit cut it; bootstrap from next_obs
    next_obs: Any  # the observation of s', before any reset
    info: dict[str, Array]
    bad: Any  # uint8 [], the sum of those of `Bad` that s' was; 0: everything is finite


class Bad(enum.IntFlag):
    """Parts of a step that are not finite."""

    STATE = 1
    OBSERVATION = 2
    REWARD = 4
    START = 8  # the observation of an episode's start, where nothing can stand in its place


def reset(env: Env, key: PRNGKeyArray) -> tuple[Running, PyTree[Array]]:
    """Starts an episode: (running, first observation). Raises ValueError where JAX computes with 64 bits."""
    require_single_precision()
    state = env.initial(key)
    return Running(state, jnp.zeros((), jnp.int32)), env.observation(state)


def start_states(env: Env, key: PRNGKeyArray, n: int) -> PyTree[Array]:
    """A bank of `n` start states (leading axis), for `step(..., resets=bank)`."""
    return jax.vmap(env.initial)(jax.random.split(key, n))


def advance(
    env: Env, key: PRNGKeyArray, running: Running, action: Array
) -> tuple[Running, Timestep]:
    """Takes one step in one environment, without a reset: `obs` is `next_obs`.

    If s', its observation or the reward is not finite, the episode terminates with reward 0, and the previous state and
    observation replace the new ones; `info["nonfinite"]` counts it, and `bad` says which part was not finite. Other
    environments of the batch are not affected.
    """
    state, t = running.state, running.t + 1
    next_state = _once(env.transition(state, action, key))
    reward = jnp.asarray(env.reward(state, action, next_state), jnp.float32)
    info = env.info(state, action, next_state)

    # `where`, never a product with 0 or 1: NaN survives a product.
    obs = () if env.finite_observations else env.observation(next_state)
    finite = all_finite((next_state, reward, obs))
    terminated = ~finite | env.terminal(next_state)
    truncated = ~terminated & ((t >= env.max_episode_steps) | env.truncated(next_state))
    bad = _bad_parts(next_state, obs, reward)
    next_state = _where(finite, next_state, env.stand_in(state, next_state))
    reward = jnp.where(finite, reward, 0.0)
    info = _where(finite, info, jax.tree.map(jnp.zeros_like, info))
    info["nonfinite"] = 1.0 - finite.astype(jnp.float32)
    next_obs = env.observation(next_state)
    timestep = Timestep(next_obs, reward, terminated, truncated, next_obs, info, bad)
    return Running(next_state, t), timestep


def step(
    env: Env,
    key: PRNGKeyArray,
    running: Running,
    action: Array,
    resets: PyTree[Array] | None = None,
) -> tuple[Running, Timestep]:
    """Takes one step in one environment; if the episode ends, the next one starts at once. See also `advance`.

    Args:
      key: used for the transition and, if the episode ends, the reset.
      resets: a bank of start states (leading axis K), shared by all environments, from which one is drawn uniformly.
        Under `vmap` every environment computes a fresh reset at every step; where resets are costly (a call to the
        physics engine), a bank that is drawn once per iteration is nearly free. None: a fresh reset.
    """
    # The keys that `split` gives, for a quarter of the time: unused ones are not computed.
    transition_key, reset_key = (jax.random.fold_in(key, i) for i in range(2))
    running, timestep = advance(env, transition_key, running, action)
    done = timestep.terminated | timestep.truncated
    start = env.restart(running.state, reset_key) if resets is None else _draw(resets, reset_key)
    running = Running(_where(done, _once(start), running.state), jnp.where(done, 0, running.t))
    # The observation of the selected state, not a selection of two: `next_obs` then costs nothing where it is not used.
    return running, timestep._replace(obs=env.observation(running.state))


def _draw(bank: PyTree[Array], key: PRNGKeyArray) -> PyTree[Array]:
    size = jax.tree.leaves(bank)[0].shape[0]
    # One draw, where `randint` takes four, and a good part of this step's arithmetic. Uniform to size / 2^32.
    index = jax.random.bits(key, (), jnp.uint32) % size
    return jax.tree.map(lambda x: x[index], bank)


def _once(tree: PyTree[Array]) -> PyTree[Array]:
    """A barrier behind which `tree` is computed once. XLA would compute a state again for each of reward, end and
    observation that uses it, rather than store it: half as much again, or three times as much, for a step of classic
    control."""
    return jax.lax.optimization_barrier(tree)


def _where(condition: Array, x: PyTree[Array], y: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), x, y)


def all_finite(tree: PyTree[Array]) -> Array:
    """True if every float in `tree` is finite, a bool scalar."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]
    return (
        jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in floats]))
        if floats
        else jnp.array(True)
    )


def _bad_parts(state: PyTree[Array], obs: PyTree[Array], reward: Array) -> Array:
    """The sum of the flags of `Bad` whose part is not finite, uint8."""
    parts = {Bad.STATE: state, Bad.OBSERVATION: obs, Bad.REWARD: reward}
    return sum(
        (jnp.where(all_finite(part), 0, bit).astype(jnp.uint8) for bit, part in parts.items()),
        jnp.zeros((), jnp.uint8),
    )
