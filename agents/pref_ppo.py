"""PPO on a reward learned from preferences. Christiano et al. 2017, https://arxiv.org/abs/1706.03741

The learner never sees the environment's reward. A comparer prefers one of two short segments of the policy's
behaviour, a reward model is fitted to these preferences, and PPO maximises the model's reward:

    init   rollout of the untrained policy -> the first pairs, drawn at random -> the first reward model
    step   rollout -> rewards by the model -> PPO's update -> new pairs, compared -> the model's update

The comparer is a function (`agents.segments.Compare`), by default one that knows the true return. Also called PrefPPO:
B-Pref, Lee et al. 2021, https://arxiv.org/abs/2111.03026
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from agents import normalize, rollout, segments
from agents.on_policy import OnPolicy, Policy, actor_critic
from agents.ppo import PPO, PPOConfig, PPOState
from agents.segment_reward import See, SegmentReward, SegmentRewardSettings, SegmentRewardState
from agents.segments import Compare, Store, Trail
from agents.settings import require
from agents.spaces import action_inputs, encode, num_action_inputs
from envs.base import Env


@dataclasses.dataclass(frozen=True)
class PrefPPOConfig(SegmentRewardSettings, PPOConfig):
    """Settings of `PrefPPO`: PPO's, the learned reward's, and those of pairs."""

    num_pairs: int = 2000
    """pairs of segments that are compared in the whole run"""
    initial_share: float = 0.25
    """share of them that are compared before training, of the untrained policy"""
    label_decay_steps: float = 2e6
    """environment steps after which pairs are asked for half as often: the rate falls as 1 / (steps + this)"""
    warmup_steps: int = 16_384
    """environment steps of the untrained policy, from which the first pairs come; rounded up to whole rows"""
    segment_length: int = 50
    """steps of a segment; at most those of an episode"""
    query: Literal["disagreement", "uniform"] = "disagreement"
    """which pairs are compared: those on which the networks disagree most, or any"""
    query_candidates: int = 10
    """pairs from which one is chosen (query disagreement)"""
    label_temperature: float = 0.0
    """labels are drawn by Bradley-Terry from true returns divided by this; 0: the higher return is preferred"""
    label_flips: float = 0.0
    """probability that a label is turned round"""
    tie_margin: float = 0.0
    """true returns of two segments that differ by no more than this count as equal"""
    reward_updates: int = 2
    """gradient steps of the learned reward in an iteration"""
    initial_reward_updates: int = 200
    """its gradient steps before training"""

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one(
            "num_pairs", "segment_length", "query_candidates", "reward_updates", "warmup_steps"
        )
        self.require_at_least_one("initial_reward_updates")
        self.require_positive("label_decay_steps")
        self.require_share("initial_share")
        self.require_not_negative("label_temperature", "tie_margin")
        require(
            0 <= self.label_flips < 0.5,
            f"label_flips must be at least 0 and below 0.5, got {self.label_flips}",
        )

    @property
    def initial_pairs(self) -> int:
        """Pairs compared before training, at least one."""
        return max(1, round(self.initial_share * self.num_pairs))


@flax.struct.dataclass
class PrefPPOState(PPOState):
    """The state of `PrefPPO`."""

    reward: SegmentRewardState | Any
    store: Store | Any
    trail: Trail | Any  # the newest steps, as many as a segment has
    learned_return: Array | Any  # [N] discounted, of learned rewards: for return normalisation


class PrefPPO(OnPolicy):
    """PPO on a reward learned from preferences: `init`, `step`, `act`.

    Raises ValueError for spaces it cannot handle, and for more pairs than the run's segments make.

    Args:
      policy: the networks; None: `actor_critic`.
      compare: compares segments; None: `by_return`, with the config's noise.
    """

    Config: ClassVar[type] = PrefPPOConfig

    def __init__(
        self,
        config: PrefPPOConfig,
        env: Env,
        policy: Policy | None = None,
        compare: Compare | None = None,
    ):
        super().__init__(config, env, policy or actor_critic(config, env))
        self.ppo = PPO(config, env, self.policy)
        self.compare = compare or segments.by_return(
            config.label_temperature, config.label_flips, config.tie_margin
        )
        self.num_actions = num_action_inputs(env.action_space)
        self.reward_model = SegmentReward(config, self.num_inputs, self.num_actions)
        self.length = min(config.segment_length, env.max_episode_steps)
        rows = max(-(-config.warmup_steps // config.num_envs), self.length)
        self.warmup_steps = rows * config.num_envs
        iterations = max(1, -(-(config.total_steps - self.warmup_steps) // self.iteration_steps))
        self.pairs_by = label_counts(
            config.num_pairs,
            config.initial_pairs,
            config.label_decay_steps,
            self.iteration_steps,
            iterations,
        )
        self.slots = max(1, int(np.max(np.diff(self.pairs_by))))
        _require_enough(self.warmup_steps - (self.length - 1) * config.num_envs, config, self.slots)

    def init(self, key: PRNGKeyArray) -> PrefPPOState:
        """Returns the first state, after the warm-up: the first pairs, and the first reward model."""
        config = self.config
        key, rollout_key, reward_key, pairs_key, fit_key = jax.random.split(key, 5)
        state = self.ppo.init(key)
        rows = self.warmup_steps // config.num_envs
        stream, steps, _ = rollout.collect_steps(
            self.env.at(0.0),
            self.acting(state.actor),
            state.stream,
            rollout_key,
            rows,
            config.gamma,
        )
        trail = self.trail(steps)
        state = dataclasses.replace(
            state,
            stream=stream,
            obs_statistics=normalize.update(state.obs_statistics, trail.obs),
            env_steps=jnp.asarray(self.warmup_steps, jnp.int32),
        )
        state = PrefPPOState(
            **{field.name: getattr(state, field.name) for field in dataclasses.fields(state)},
            reward=self.reward_model.init(reward_key),
            store=segments.empty_store(
                config.num_pairs, self.length, self.num_inputs, self.num_actions
            ),
            trail=jax.tree.map(lambda x: x[rows - self.length :], trail),
            learned_return=jnp.zeros(config.num_envs),
        )
        wanted = int(self.pairs_by[0])
        # Twice as many are drawn, for a time limit may have cut some.
        store = self.ask(state, trail, pairs_key, wanted, wanted, 2 * wanted, "uniform")
        reward, _ = self.reward_model.fit(
            state.reward, store, self.see(state), fit_key, config.initial_reward_updates
        )
        return dataclasses.replace(state, store=store, reward=reward)

    def step(self, state: PrefPPOState, data: None = None) -> tuple[PrefPPOState, dict[str, Array]]:
        """Returns the state after one iteration: rollout, learned rewards, PPO's update, new pairs, the model's."""
        rollout_key, pairs_key, fit_key, key = jax.random.split(state.key, 4)
        stream, steps, rollout_metrics = self.collect(state.actor, state.stream, rollout_key)
        new = self.trail(steps)
        paid, learned_return, reward_metrics = self.pay(state, steps, new)
        iteration = (state.env_steps - self.warmup_steps) // self.iteration_steps
        state = dataclasses.replace(state, stream=stream, key=key, learned_return=learned_return)
        state, metrics = self.ppo.improve(state, paid)

        # Every segment that ends in this rollout, and no other.
        trail = segments.follow(state.trail, new, self.length - 1)
        goal = jnp.asarray(self.pairs_by)[jnp.minimum(iteration + 1, len(self.pairs_by) - 1)]
        store = self.ask(
            state,
            trail,
            pairs_key,
            goal - state.store.filled,
            self.slots,
            self.slots * self.config.query_candidates,
            self.config.query,
        )
        reward, fit_metrics = self.reward_model.fit(
            state.reward, store, self.see(state), fit_key, self.config.reward_updates
        )
        trail = jax.tree.map(lambda x: x[-self.length :], trail)
        state = dataclasses.replace(state, store=store, reward=reward, trail=trail)
        pairs = {"preferences/pairs": store.filled.astype(jnp.float32)}
        return state, {**rollout_metrics, **metrics, **reward_metrics, **fit_metrics, **pairs}

    def pay(
        self, state: PrefPPOState, steps: rollout.Steps, new: Trail
    ) -> tuple[rollout.Steps, Float[Array, " N"], dict[str, Array]]:
        """Returns the steps with learned rewards in place of the environment's, the discounted return so far of each
        environment, and metrics that compare the two rewards."""
        see = self.see(state)
        each = self.reward_model.members(state.reward, see(new.obs), new.action, see(new.next_obs))
        reward = jnp.mean(each, axis=0)
        done = steps.terminated | steps.truncated
        after, discounted = discounted_so_far(state.learned_return, reward, done, self.config.gamma)
        metrics = {
            "preferences/reward": jnp.mean(reward),
            "preferences/correlation": correlation(reward, steps.reward),
            "preferences/disagreement": jnp.mean(jnp.std(each, axis=0)),
        }
        return steps._replace(reward=reward, discounted_return=discounted), after, metrics

    def ask(
        self,
        state: PrefPPOState,
        trail: Trail,
        key: PRNGKeyArray,
        wanted: Int[Array, ""] | int,
        slots: int,
        candidates: int,
        query: str,
    ) -> Store:
        """Returns the store with up to `wanted` new pairs from the trail, compared; no more than `slots`."""
        draw_key, score_key, compare_key = jax.random.split(key, 3)
        first, second, eligible = segments.candidate_pairs(
            trail, draw_key, max(candidates, slots), self.length
        )
        if query == "disagreement":
            score = self.reward_model.disagreement(state.reward, first, second, self.see(state))
        else:
            score = jax.random.uniform(score_key, eligible.shape)
        index, taken = segments.choose(score, eligible, wanted, slots)
        first, second = (jax.tree.map(lambda x: x[index], part) for part in (first, second))
        label = self.compare(first, second, compare_key)
        return segments.add(state.store, first, second, label, taken)

    def trail(self, steps: rollout.Steps) -> Trail:
        """Returns steps as segments are cut from them: observations and actions as vectors."""
        observations, actions = self.env.observation_space, self.env.action_space
        return Trail(
            encode(observations, steps.obs),
            action_inputs(actions, steps.action),
            encode(observations, steps.next_obs),
            steps.reward,
            steps.terminated,
            steps.truncated,
        )

    def learned(self, state: Any) -> Any:
        """Returns the parameters of policy, value and reward."""
        return {"policy": state.params, "reward": state.reward.params}

    def see(self, state: PrefPPOState) -> See:
        """Returns the function from encoded observations to what networks see, as `preprocess` has it."""
        space = self.env.observation_space
        if isinstance(space, gymnasium.spaces.Discrete) or not self.config.normalize_observations:
            return lambda x: x
        return lambda x: normalize.normalize(state.obs_statistics, x)


def label_counts(
    pairs: int, initial: int, decay_steps: float, iteration_steps: int, iterations: int
) -> Int[np.ndarray, " n"]:
    """Returns how many pairs have been compared after 0, 1, ... `iterations`; after none, `initial`.

    The rate falls as 1 / (steps + decay_steps); all `pairs` are compared in the end.
    Christiano et al. 2017, appendix A.1, with decay_steps = 2e6 for robots. https://arxiv.org/abs/1706.03741
    """
    steps = iteration_steps * np.arange(iterations + 1, dtype=np.float64)
    share = np.log1p(steps / decay_steps) / np.log1p(steps[-1] / decay_steps)
    return (initial + np.floor((pairs - initial) * share + 1e-9)).astype(np.int32)


def discounted_so_far(
    before: Float[Array, " N"],
    reward: Float[Array, "T N"],
    done: Bool[Array, "T N"],
    discount: float,
) -> tuple[Float[Array, " N"], Float[Array, "T N"]]:
    """Returns sum_k discount^k r_{t-k} over the present episode: after the last step, and at each step.

    Args:
      before: that of the step before the first; 0 where an episode begins.
    """

    def body(total: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, done = row
        total = discount * total + reward
        return jnp.where(done, 0.0, total), total

    return jax.lax.scan(body, before, (reward, done))


def correlation(x: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Returns Pearson's correlation; 0 where one of the two does not vary."""
    x, y = x - jnp.mean(x), y - jnp.mean(y)
    spread = jnp.sqrt(jnp.mean(jnp.square(x)) * jnp.mean(jnp.square(y)))
    return jnp.where(spread > 1e-12, jnp.mean(x * y) / jnp.maximum(spread, 1e-12), 0.0)


def _require_enough(windows: int, config: PrefPPOConfig, slots: int) -> None:
    """Raises ValueError where more pairs are asked for than segments can be cut from the rollouts.

    Args:
      windows: segments of the warm-up.
      slots: pairs of the iteration with the most of them.
    """
    require(
        2 * config.initial_pairs <= windows,
        f"the {config.initial_pairs} pairs before training need {2 * config.initial_pairs} segments, and "
        f"warmup_steps = {config.warmup_steps} give {windows}: raise warmup_steps, or lower num_pairs or initial_share",
    )
    steps = config.num_envs * config.num_steps
    require(
        2 * slots <= steps,
        f"num_pairs = {config.num_pairs} asks for {slots} pairs in one iteration, and {steps} steps make "
        f"{steps // 2}: lower num_pairs, or raise total_steps or num_steps",
    )
