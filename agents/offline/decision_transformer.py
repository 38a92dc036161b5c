"""Decision transformer: a sequence model that is asked for a return. Chen et al. 2021, https://arxiv.org/abs/2106.01345

    ... R_{t-1} s_{t-1} a_{t-1} R_t s_t  ->  a_t,   R_t = r_t + r_{t+1} + ... the return to go

Imitation, conditioned on what came of it: no values, no bootstrap. To act, R_0 is the best return in the data, and each
reward is taken off it. `tokens.transformer` does the mixing; positions are rotary, in place of the paper's embedding of
the time step.

The loss is the squared error of a_t, or its negative log-likelihood where actions are Discrete, over all places of a
window of `context` steps.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import flax.struct
import gymnasium
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from agents import replay
from agents.off_policy import OffPolicyState
from agents.offline.data import OfflineData, draw
from agents.offline.learner import OfflineConfig, OfflineLearner
from agents.offline.policies import as_inputs
from agents.optimisers import apply_gradients
from agents.settings import require
from agents.spaces import element
from agents.tokens.cache import as_cached
from agents.tokens.layers import linear_layer, norm_layer
from agents.tokens.transformer import Block, DrawnInOneLoop
from agents.tokens.transformer_config import TransformerConfig
from envs.base import Env

_KINDS = 3  # tokens of a step: return to go, observation, action


@dataclasses.dataclass(frozen=True)
class DecisionTransformerConfig(OfflineConfig):
    """Settings of `DecisionTransformer`."""

    total_steps: int = 100_000
    """gradient steps of the whole run"""
    batch_size: int = 64
    """windows of a gradient step"""
    learning_rate: float = 1e-4
    """Adam's step size, at first"""
    max_grad_norm: float | None = 0.25
    """gradients longer than this are shortened to it; None: never"""
    context: int = 20
    """steps that the model sees, the present one included"""
    width: int = 128
    """numbers of each token between the layers"""
    layers: int = 3
    """transformer blocks"""
    heads: int = 2
    """attention heads"""
    target_factor: float = 1.0
    """return that is asked for, as a multiple of the best one in the data"""

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one("context", "width", "layers", "heads")
        require(
            self.width % (2 * self.heads) == 0,
            f"width {self.width} must be a multiple of twice the heads ({self.heads})",
        )


@flax.struct.dataclass
class DecisionState(OffPolicyState):
    """The state of `DecisionTransformer`: besides, what the data say of returns."""

    target: Array | Any = None  # float32 [], the best episode's return
    scale: Array | Any = (
        None  # float32 [], the largest return to go in size: inputs are divided by it
    )


class Context(NamedTuple):
    """The last K steps of N episodes, the latest last; what is not there yet is `known` False."""

    to_go: (
        Any  # [N, K] returns to go; of episodes under way in the environment's units, else scaled
    )
    obs: Any  # [N, K, inputs] preprocessed
    action: Any  # [N, K, A] as the model is given it
    known: Any  # [N, K] bool


class DecisionModel(nnx.Module):
    """Windows of returns to go, observations and actions to an action at each place."""

    def __init__(self, config: TransformerConfig, inputs: int, actions: int, *, rngs: nnx.Rngs):
        width = config.width
        self.blocks = nnx.List(Block(config, rngs) for _ in range(config.layers))
        self.norm = norm_layer(config, rngs)
        self.of_return = linear_layer(config, 1, width, rngs)
        self.of_obs = linear_layer(config, inputs, width, rngs)
        self.of_action = linear_layer(config, actions, width, rngs)
        self.head = linear_layer(config, width, actions, rngs, 0.1)

    def __call__(self, window: Context) -> Float[Array, "N K A"]:
        n, steps = window.known.shape
        tokens = jnp.stack(
            [
                self.of_return(window.to_go[..., None]),
                self.of_obs(window.obs),
                self.of_action(window.action),
            ],
            axis=2,
        ).reshape(n, _KINDS * steps, -1)
        places = jnp.arange(_KINDS * steps)
        positions = jnp.where(jnp.repeat(window.known, _KINDS, axis=1), places, -1)
        x = tokens
        for block in self.blocks:
            attention = block.attention
            query, *kept = attention.project(block.norm_attention(x), positions, 0)
            x = x + attention.attend(query, *as_cached(*kept), positions, positions)
            x = x + block.mlp(x)
        mixed = self.norm(x)
        return self.head(mixed.reshape(n, steps, _KINDS, -1)[:, :, 1])  # behind the observation


class DecisionTransformer(OfflineLearner):
    """Decision transformer: `init`, `step`, `act`, and acting in context (`agents.algorithm.ActsInContext`). Raises
    ValueError for spaces it cannot handle."""

    Config: ClassVar[type] = DecisionTransformerConfig

    def __init__(self, config: DecisionTransformerConfig, env: Env):
        super().__init__(config, env, (gymnasium.spaces.Box, gymnasium.spaces.Discrete))
        sizes = TransformerConfig(
            vocabulary=1,
            layers=config.layers,
            width=config.width,
            heads=config.heads,
            kv_heads=config.heads,
            mlp_width=2 * config.width,
        )
        self.model = DrawnInOneLoop(
            lambda r: DecisionModel(sizes, self.num_inputs, self.num_actions, rngs=r)
        )
        self.optimizer = self.adam()

    def init(self, key: PRNGKeyArray) -> DecisionState:
        """Returns the first state."""
        params_key, key = jax.random.split(key)
        params = self.model.init(params_key)
        first = self.begin(key, params, self.optimizer.init(params))
        return DecisionState(**vars(first) | {"target": jnp.zeros(()), "scale": jnp.ones(())})

    def step(
        self, state: DecisionState, data: OfflineData | None = None
    ) -> tuple[DecisionState, dict[str, Array]]:
        """Returns the state after the gradient steps of an iteration. Raises ValueError without data."""
        dataset = self.require_data(data)
        scale = jnp.maximum(jnp.max(jnp.abs(dataset.return_to_go)), 1e-6)
        target = dataset.return_to_go[dataset.by_return[0] - dataset.t[dataset.by_return[0]]]
        state = dataclasses.replace(state, target=target, scale=scale)

        def sample(data: OfflineData, key: PRNGKeyArray) -> replay.Sample:
            return windows(
                data, draw(data, key, self.config.batch_size), self.config.context, scale
            )

        return self.run(state, dataset, self.update, sample=sample)

    def update(
        self, params: Any, opt_state: Any, sample: replay.Sample, key: PRNGKeyArray, updates: Array
    ) -> tuple[Any, Any, Float[Array, " B"], dict[str, Array]]:
        """One gradient step on windows; TD errors are 0."""
        known = sample.weight
        window = Context(sample.reward, sample.obs, as_inputs(self, sample.action), known)

        def loss(params: Any) -> Array:
            out = self.model.module(params)(window)
            return jnp.sum(jnp.where(known, self._error(out, sample.action), 0.0)) / jnp.sum(known)

        value, grads = jax.value_and_grad(loss)(params)
        params, opt_state = apply_gradients(self.optimizer, grads, opt_state, params)
        metrics = {"loss/actor": value, "grad_norm": optax.tree.norm(grads)}
        return params, opt_state, jnp.zeros(known.shape[0]), metrics

    def act(
        self, state: DecisionState, obs: Array, key: PRNGKeyArray, deterministic: bool
    ) -> Array:
        """Elements of the action space for raw observations [*batch, ...], as at the first step of an episode."""
        events = len(self.env.observation_space.shape or ())
        obs = jnp.asarray(obs)
        batch = obs.shape[: obs.ndim - events]
        flat = obs.reshape(-1, *obs.shape[obs.ndim - events :])
        context = self.begin_context(state, flat.shape[0])
        action, _ = self.act_in_context(state, context, flat, key, deterministic)
        return action.reshape(*batch, *action.shape[1:])

    def begin_context(self, state: DecisionState, num_episodes: int) -> Context:
        """Returns the context of episodes that have not begun; the return that they are asked for is in its last
        place."""
        n, k = num_episodes, self.config.context
        target = self.config.target_factor * state.target
        return Context(
            to_go=jnp.zeros((n, k)).at[:, -1].set(target),
            obs=jnp.zeros((n, k, self.num_inputs)),
            action=jnp.zeros((n, k, self.num_actions)),
            known=jnp.zeros((n, k), bool),
        )

    def act_in_context(
        self,
        state: DecisionState,
        context: Context,
        obs: Any,
        key: PRNGKeyArray,
        deterministic: bool,
    ) -> tuple[Array, Context]:
        """Returns elements of the action space [N, ...], and the context with them."""
        now = context._replace(
            obs=_shifted(context.obs, self.preprocess(state, obs)),
            action=_shifted(context.action, jnp.zeros_like(context.action[:, 0])),
            known=_shifted(context.known, jnp.ones_like(context.known[:, 0])),
        )
        seen = now._replace(to_go=now.to_go / state.scale)
        out = self.model.module(state.params)(seen)[:, -1]
        if not self.discrete:
            raw = jnp.tanh(out)
        elif deterministic:
            raw = jnp.argmax(out, axis=-1).astype(jnp.int32)
        else:
            raw = jax.random.categorical(key, out).astype(jnp.int32)
        now = now._replace(action=now.action.at[:, -1].set(as_inputs(self, raw)))
        return element(self.env.action_space, raw), now

    def after_reward(self, context: Context, reward: Float[Array, " N"]) -> Context:
        """Returns the context with the return that is still to come, for the next step."""
        return context._replace(to_go=_shifted(context.to_go, context.to_go[:, -1] - reward))

    def _error(self, out: Array, action: Array) -> Float[Array, "B K"]:
        """The loss of each place."""
        if self.discrete:
            return optax.softmax_cross_entropy_with_integer_labels(out, action)
        return jnp.mean(jnp.square(jnp.tanh(out) - action), axis=-1)


def windows(
    data: OfflineData, index: Int[Array, " B"], steps: int, scale: Float[Array, ""]
) -> replay.Sample:
    """Returns the `steps` = K steps up to each place, of its own episode, as a sample whose leaves are [B, K, ...]:
    `reward` is the return to go divided by `scale`, `weight` is True where there is a step."""
    back = jnp.arange(steps - 1, -1, -1)
    known = back <= data.t[index][:, None]
    places = jnp.where(known, index[:, None] - back, index[:, None])
    obs = data.obs[places]
    return replay.Sample(
        obs=obs,
        action=data.action[places],
        reward=data.return_to_go[places] / scale,
        discount=known,
        terminated=known,
        next_obs=obs,
        index=index,
        weight=known,
    )


def _shifted(x: Array, new: Array) -> Array:
    """[N, K, ...] without its first place, and with [N, ...] as its last."""
    return jnp.concatenate([x[:, 1:], new[:, None]], axis=1)
