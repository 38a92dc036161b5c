"""The contract of an algorithm, and the callables that learners are made of.

An algorithm is three pure functions and a frozen config. Nothing is registered and nothing inherited: a class that has
these attributes is an algorithm, and `tests/agents/test_contract.py` is the executable half of this page.

    algo = PPO(PPOConfig(...), env)                # everything impossible is refused here, never inside `jit`
    state = algo.init(key)                         # a frozen pytree
    state, metrics = algo.step(state)              # one iteration; `jit` and `vmap` it
    action = algo.act(state, obs, key, True)       # an element of the action space

`agents.ALGORITHMS` names those that the commands offer.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, PRNGKeyArray

from agents.batch import Evaluation
from envs.base import Env

Params = Any
State = Any
Metrics = dict[str, Array]  # name to float scalar; the names are the same in every iteration


class ActorState(NamedTuple):
    """The part of a learner's state that acting needs, which is all that an actor on another machine is sent."""

    params: Params
    obs_statistics: Any  # `agents.normalize.RunningStatistics`
    env_steps: Array | Any  # int32 []


@runtime_checkable
class Learner(Protocol):
    """The part of an algorithm that the training loop needs, whether it acts step by step or writes responses."""

    Config: ClassVar[type]  # a frozen dataclass; its fields are the command's flags
    config: Any
    env: Any
    iteration_steps: int  # environment steps of one `step`; gradient steps, see `LearnsOffline`
    warmup_steps: int  # environment steps of `init`; 0 for most

    def init(self, key: PRNGKeyArray) -> State:
        """Returns the state from which training begins, after the warm-up if there is one."""

    def step(self, state: State, data: Any = None) -> tuple[State, Metrics]:
        """Returns the state after one iteration, a fixed amount of work, and its metrics.

        Args:
          data: what the algorithm learns from and does not own (a dataset); shared by all seeds, never saved with the
            state. None for algorithms that make their own.
        """

    def learned(self, state: State) -> Any:
        """Returns the part of the state that learning changes, which must stay finite: parameters, or tables."""

    def buffer_bytes(self) -> int:
        """Returns the size of the replay buffer of one seed, in bytes; 0 where there is none."""


@runtime_checkable
class Algorithm(Learner, Protocol):
    """An algorithm of control."""

    env: Env

    def act(self, state: State, obs: Any, key: PRNGKeyArray, deterministic: bool) -> Array:
        """Returns elements of the environment's action space [*batch, ...] for raw observations [*batch, ...].

        Args:
          deterministic: the best action by the policy, for evaluation; else a sample, as in training. Static under
            `jit`.
        """


@runtime_checkable
class CollectsApart(Protocol):
    """An algorithm whose iteration begins with a rollout that can be run, and so timed, alone."""

    def collect_only(self, state: State) -> State:
        """Returns the state after the rollout of an iteration, with nothing learned."""


@runtime_checkable
class LearnsApart(Protocol):
    """An algorithm whose iteration is a rollout and then an update, so that others may collect the rollout."""

    def collect(self, actor: Any, stream: Any, key: PRNGKeyArray) -> tuple[Any, Any, Metrics]:
        """Returns the environments further on, their steps [T, N, ...], and the rollout's metrics.

        Args:
          actor: the part of a state that acting needs, `state.actor`.
          stream: the environments under way, leaves [N, ...]; those of a state, or some of them.
        """

    def improve(self, state: State, steps: Any) -> tuple[State, Metrics]:
        """Returns the state after the update of an iteration, its environments untouched, and metrics."""

    def fresh(self, key: PRNGKeyArray, n: int) -> Any:
        """Returns `n` environments that have just been reset, as `collect` takes them."""

    def environments(self, state: State) -> Any:
        """Returns the environments of a state."""

    def with_environments(self, state: State, environments: Any) -> State:
        """Returns the state with other environments."""


@runtime_checkable
class LearnsOffline(Protocol):
    """An algorithm that learns from a dataset alone, which is the `data` of its `step`. A class, or one of it.

    Its steps are not the environment's: `iteration_steps`, `total_steps` and the state's `env_steps` count in `unit`.
    """

    unit: str


@runtime_checkable
class ActsInContext(Protocol):
    """An algorithm whose actions depend on the episode so far. Its `act` acts as at an episode's first step."""

    def begin_context(self, state: State, num_episodes: int) -> Any:
        """Returns the context of N episodes that have not begun, leaves [N, ...]."""

    def act_in_context(
        self, state: State, context: Any, obs: Any, key: PRNGKeyArray, deterministic: bool
    ) -> tuple[Array, Any]:
        """Returns elements of the action space [N, ...] for raw observations [N, ...], and the context with both."""

    def after_reward(self, context: Any, reward: Float[Array, " N"]) -> Any:
        """Returns the context after the rewards of those actions."""


@runtime_checkable
class Act(Protocol):
    """Chooses actions: (params, preprocessed obs [*batch, ...], env_steps [], key) to (raw actions, their log-probs).

    `env_steps` is how far training has come, for exploration that depends on it. Raw: see `agents.spaces`.
    """

    def __call__(
        self, params: Params, obs: Any, env_steps: Array, key: PRNGKeyArray
    ) -> tuple[Array, Float[Array, "*batch"]]: ...


@runtime_checkable
class Mode(Protocol):
    """Returns the best raw actions: (params, preprocessed obs [*batch, ...]) to [*batch, ...]."""

    def __call__(self, params: Params, obs: Any) -> Array: ...


@runtime_checkable
class Evaluate(Protocol):
    """Returns the policy's view of what was done: (params, obs [T, N, ...], action [T, N, ...]) to leaves [T, N].

    It may mix along T (a transformer does), never along N.
    """

    def __call__(self, params: Params, obs: Any, action: Any) -> Evaluation: ...


@runtime_checkable
class Distribution(Protocol):
    """Returns the distribution of raw actions (`agents.distributions`): (params, obs [*batch, ...])."""

    def __call__(self, params: Params, obs: Any) -> Any: ...


@runtime_checkable
class Value(Protocol):
    """Returns values of states: (params, obs [*batch, ...]) to [*batch]."""

    def __call__(self, params: Params, obs: Any) -> Array: ...
