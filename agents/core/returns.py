"""Returns and advantages.

Arrays are time-major `[T, N]`: row t holds reward r(s_t, a_t, s_{t+1}), `value` V(s_t),
`next_value` V(s_{t+1}) with s_{t+1} the true successor (before any reset), and the flags of that
transition.

- `terminated`: no bootstrap. `truncated`: bootstrap from `next_value`. Either one cuts the sum.
- `mask` (None: all True) marks real steps. Masked steps are skipped as if deleted and give 0.
- Values are selected with `where`, never multiplied by (1 - flag): what lies past a terminated step
  or under the mask may be NaN, and NaN * 0 is NaN.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, ScalarLike

from agents.core import across

# Steps of a reverse scan that XLA compiles into one loop body: the body is a few operations on N
# numbers, so on a CPU the loop itself would otherwise dominate.
UNROLL = 8


def discounted_returns(
    reward: Float[Array, "T N"],
    next_value: Float[Array, "T N"],
    terminated: Bool[Array, "T N"],
    truncated: Bool[Array, "T N"],
    discount: ScalarLike,
    mask: Bool[Array, "T N"] | None = None,
) -> Float[Array, "T N"]:
    """Monte-Carlo return-to-go, bootstrapped at truncations and where the data end.

    G_t = r_t + discount * G_{t+1}; G_{t+1} is 0 after a termination, and `next_value` after a
    truncation or the last real step. Sutton & Barto 2018, eq. 3.9.
    http://incompleteideas.net/book/the-book-2nd.html
    """
    mask = _all_true(terminated) if mask is None else mask
    end = terminated | truncated | last_real_step(mask)
    bootstrap = jnp.where(end & ~terminated, next_value, 0.0)
    returns = _discounted_sum(reward + discount * bootstrap, discount, end, mask)
    return jnp.where(mask, returns, 0.0)


def n_step_returns(
    reward: Float[Array, "T N"],
    next_value: Float[Array, "T N"],
    terminated: Bool[Array, "T N"],
    truncated: Bool[Array, "T N"],
    discount: ScalarLike,
    n: int,
    mask: Bool[Array, "T N"] | None = None,
) -> Float[Array, "T N"]:
    """n-step returns; fewer steps where the episode or the data end first. `n` is static.

    G_t^(n) = r_t + discount r_{t+1} + ... + discount^(n-1) r_{t+n-1} + discount^n V(s_{t+n}), by
    the recursion G_t^(n) = r_t + discount G_{t+1}^(n-1) with G_{t+1}^(0) = V(s_{t+1}).
    Only real steps count towards n. Sutton & Barto 2018, eq. 7.1.
    http://incompleteideas.net/book/the-book-2nd.html
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    mask = _all_true(terminated) if mask is None else mask
    end = terminated | truncated | last_real_step(mask)

    def step(later, inputs):  # later[k] is the (k+1)-step return of the next real step
        reward_t, next_value_t, terminated_t, end_t, mask_t = inputs
        continuation = jnp.concatenate([next_value_t[None], later[:-1]])
        continuation = jnp.where(end_t, next_value_t, continuation)
        continuation = jnp.where(terminated_t, 0.0, continuation)
        now = jnp.where(mask_t, reward_t + discount * continuation, later)
        return now, now[-1]

    start = jnp.zeros((n, *reward.shape[1:]), jnp.result_type(reward, next_value, discount))
    inputs = (reward, next_value, terminated, end, mask)
    _, returns = jax.lax.scan(step, start, inputs, reverse=True)
    return jnp.where(mask, returns, 0.0)


def gae(
    reward: Float[Array, "T N"],
    value: Float[Array, "T N"],
    next_value: Float[Array, "T N"],
    terminated: Bool[Array, "T N"],
    truncated: Bool[Array, "T N"],
    discount: ScalarLike,
    trace: ScalarLike,
    mask: Bool[Array, "T N"] | None = None,
) -> Float[Array, "T N"]:
    """Generalised advantage estimation.

    A_t = delta_t + discount * trace * A_{t+1},  delta_t = r_t + discount V(s_{t+1}) - V(s_t).
    Schulman et al. 2016, eq. 16. https://arxiv.org/abs/1506.02438
    """
    mask = _all_true(terminated) if mask is None else mask
    delta = reward + discount * jnp.where(terminated, 0.0, next_value) - value
    advantage = _discounted_sum(delta, discount * trace, terminated | truncated, mask)
    return jnp.where(mask, advantage, 0.0)


class VTrace(NamedTuple):
    """Targets of the value, and advantages of the policy gradient, of data that another policy collected."""

    value: Array  # [T, N] vs_t; 0 where masked
    advantage: (
        Array  # [T, N] min(rho_bar, ratio_t) (r_t + discount vs_{t+1} - V(s_t)); 0 where masked
    )


def vtrace(
    ratio: Float[Array, "T N"],
    reward: Float[Array, "T N"],
    value: Float[Array, "T N"],
    next_value: Float[Array, "T N"],
    terminated: Bool[Array, "T N"],
    truncated: Bool[Array, "T N"],
    discount: ScalarLike,
    trace: ScalarLike = 1.0,
    rho_bar: ScalarLike = 1.0,
    c_bar: ScalarLike = 1.0,
    mask: Bool[Array, "T N"] | None = None,
) -> VTrace:
    """V-trace. Espeholt et al. 2018, eq. 1 and sec. 4.2. https://arxiv.org/abs/1802.01561

    vs_t = V(s_t) + delta_t + discount c_t (vs_{t+1} - V(s_{t+1})),
    delta_t = min(rho_bar, ratio_t) (r_t + discount V(s_{t+1}) - V(s_t)),  c_t = trace min(c_bar, ratio_t).
    Either flag cuts the trace: vs_{t+1} is `next_value` at a truncation and where the data end, 0 after a termination.
    With trace < 1 the advantage takes V(s_{t+1}) + trace (vs_{t+1} - V(s_{t+1})) for vs_{t+1}, so that on-policy,
    without bounds, it is that of `gae`, and with trace = 1 vs_t is the return bootstrapped where the data end.

    Args:
      ratio: pi(a_t|s_t) / mu(a_t|s_t), of the policy that learns over the one that acted.
      rho_bar: bound on the weight of delta and of the advantage: it decides to whose value vs converges.
      c_bar: bound on the weights of the trace: how far later errors reach back.
    """
    mask = _all_true(terminated) if mask is None else mask
    cut = terminated | truncated
    rho = jnp.minimum(rho_bar, ratio)
    delta = rho * (reward + discount * jnp.where(terminated, 0.0, next_value) - value)
    decay = discount * trace * jnp.minimum(c_bar, ratio)
    # vs - V of each step; at a masked step, of the next real one.
    error = _discounted_sum(delta, decay, cut, mask)
    next_error = jnp.concatenate([error[1:], jnp.zeros_like(error[:1])])
    next_target = next_value + trace * jnp.where(cut, 0.0, next_error)
    advantage = rho * (reward + discount * jnp.where(terminated, 0.0, next_target) - value)
    return VTrace(jnp.where(mask, value + error, 0.0), jnp.where(mask, advantage, 0.0))


def q_lambda(
    reward: Float[Array, "T N"],
    next_value: Float[Array, "T N"],
    terminated: Bool[Array, "T N"],
    truncated: Bool[Array, "T N"],
    discount: ScalarLike,
    trace: ScalarLike,
    mask: Bool[Array, "T N"] | None = None,
) -> Float[Array, "T N"]:
    """Lambda-returns of Q-learning; `next_value` is max_a Q(s_{t+1}, a).

    G_t = r_t + discount ((1 - trace) max_a Q(s_{t+1}, a) + trace G_{t+1}), and r_t + discount max_a
    Q(s_{t+1}, a) for a truncated step and where the data end. This is Peng's Q(lambda), in which later
    actions need not be greedy; PQN uses it. Gallici et al. 2024, https://arxiv.org/abs/2407.04811
    """
    mask = _all_true(terminated) if mask is None else mask

    def step(carry, inputs):  # carry: G of the next real step, and whether there is one
        later, follow = carry
        reward_t, next_value_t, terminated_t, truncated_t, mask_t = inputs
        mixed = (1.0 - trace) * next_value_t + trace * later
        continuation = jnp.where(follow & ~truncated_t, mixed, next_value_t)
        continuation = jnp.where(terminated_t, 0.0, continuation)
        now = jnp.where(mask_t, reward_t + discount * continuation, later)
        return (now, mask_t | follow), now

    dtype = jnp.result_type(reward, next_value, discount, trace)
    start = jnp.zeros(reward.shape[1:], dtype), jnp.zeros(reward.shape[1:], bool)
    inputs = (reward, next_value, terminated, truncated, mask)
    _, returns = jax.lax.scan(step, start, inputs, reverse=True, unroll=UNROLL)
    return jnp.where(mask, returns, 0.0)


def group_advantages(
    score: Float[Array, " N"], group_size: int, *, scale: bool = True
) -> tuple[Float[Array, " N"], Float[Array, ""]]:
    """Group-relative advantage, and the share of groups whose scores are all equal.

    A_i = (score_i - mean) / (std + 1e-4) over the group of i; groups are contiguous in N, std has
    ddof 1. Groups of one and groups without spread give 0. `scale=False` leaves out the division.
    GRPO: Shao et al. 2024, sec. 4.1.2, https://arxiv.org/abs/2402.03300
    Dr. GRPO (`scale=False`): Liu et al. 2025, https://arxiv.org/abs/2503.20783
    """
    groups, centred, no_spread = _centred_groups(score, group_size)
    if scale:
        variance = jnp.sum(jnp.square(centred), axis=1, keepdims=True) / max(group_size - 1, 1)
        centred = centred / (jnp.sqrt(variance) + 1e-4)
    advantage = jnp.where(no_spread, 0.0, centred)
    return advantage.reshape(score.shape), jnp.mean(no_spread, dtype=groups.dtype)


def leave_one_out_advantages(score: Float[Array, " N"], group_size: int) -> Float[Array, " N"]:
    """Score minus the mean of the others in its group; groups are contiguous in N.

    A_i = score_i - sum_{j != i} score_j / (G - 1) = G / (G - 1) (score_i - mean). A group of one
    has no others and gives 0. RLOO: Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740
    """
    _, centred, no_spread = _centred_groups(score, group_size)
    advantage = jnp.where(no_spread, 0.0, centred * (group_size / max(group_size - 1, 1)))
    return advantage.reshape(score.shape)


def reinforce_plus_plus_advantages(
    reward: Float[Array, "T N"],
    kl: Float[Array, "T N"],
    mask: Bool[Array, "T N"],
    kl_coefficient: ScalarLike,
    discount: ScalarLike = 1.0,
) -> Float[Array, "T N"]:
    """Discounted sum of `reward - kl_coefficient kl` to the end of the response, whitened over all unmasked tokens.

    `reward` is 0 but at the last token for an outcome reward; `kl` is k1 of each token's own log-probs, without
    gradient. One column is one response, and ends with its last unmasked token.
    REINFORCE++, Hu 2025, sec. 3. https://arxiv.org/abs/2501.03262
    """
    never = jnp.zeros(mask.shape, bool)
    returns = _discounted_sum(reward - kl_coefficient * kl, discount, never, mask)
    return masked_whiten(returns, mask)


def reinforce_plus_plus_baseline_advantages(
    score: Float[Array, " N"], mask: Bool[Array, "T N"], group_size: int
) -> Float[Array, "T N"]:
    """Score minus its group's mean, repeated at all unmasked tokens and whitened over all of these.

    Groups are contiguous in N; no group is divided by its own std. Long responses weigh more in the batch's mean and
    std. A group of one gives 0 before whitening (veRL: its score). A KL to the reference policy goes into the loss, as
    k2. REINFORCE++-baseline, Hu 2025, sec. 3. https://arxiv.org/abs/2501.03262
    """
    _, centred, no_spread = _centred_groups(score, group_size)
    centred = jnp.where(no_spread, 0.0, centred).reshape(score.shape)
    return masked_whiten(jnp.broadcast_to(centred, mask.shape), mask)


def groups_with_spread(score: Float[Array, " N"], group_size: int) -> Bool[Array, " N"]:
    """True for every member of a group whose scores differ; groups are contiguous in N.

    The filter of dynamic sampling: other groups have no advantage. `score` is the raw outcome, before a penalty for
    length or a KL would make all scores differ.
    DAPO, Yu et al. 2025, eq. 11. https://arxiv.org/abs/2503.14476
    """
    _, _, no_spread = _centred_groups(score, group_size)
    return jnp.repeat(~no_spread[:, 0], group_size)


def masked_mean(
    x: Float[Array, "*shape"], mask: Bool[Array, "*shape"] | None = None
) -> Float[Array, ""]:
    """Mean of the unmasked entries, of all devices that share the batch; 0 if there are none."""
    if mask is None:
        mask = _all_true(x)
    sums = across.total((jnp.sum(jnp.where(mask, x, 0.0)), jnp.sum(mask)))
    return sums[0] / jnp.maximum(sums[1], 1)


def masked_std(
    x: Float[Array, "*shape"], mask: Bool[Array, "*shape"] | None = None
) -> Float[Array, ""]:
    """Standard deviation (ddof 1) of the unmasked entries; 0 if there are fewer than two."""
    return jnp.sqrt(_masked_variance(x, mask))


def masked_whiten(
    x: Float[Array, "*shape"], mask: Bool[Array, "*shape"] | None = None
) -> Float[Array, "*shape"]:
    """(x - mean) * rsqrt(var + 1e-8) over the unmasked entries, with ddof 1; masked entries give 0.

    Fewer than two entries give 0. The constant is added to the variance, as in the common PPO
    codes (Huang et al. 2022, detail 7).
    https://iclr-blog-track.github.io/2022/03/25/ppo-implementation-details/
    """
    white = (x - masked_mean(x, mask)) * jax.lax.rsqrt(_masked_variance(x, mask) + 1e-8)
    return white if mask is None else jnp.where(mask, white, 0.0)


def masked_whiten_weighted(
    advantage: Float[Array, "*shape"],
    weight: Float[Array, "*shape"],
    mask: Bool[Array, "*shape"] | None = None,
) -> Float[Array, "*shape"]:
    """Whitens advantages that importance weights are in: weight (A - m), with the m for which the mean is 0.

    A baseline goes inside of the weight, because E_mu[pi / mu grad log pi] = 0. Outside of it, -m E_mu[grad log pi]
    stays in the policy gradient: that is m grad KL(mu || pi), which drives the policy away from its data as long as
    weighted advantages are positive on average, and the faster the further away it is.

    Args:
      advantage: weight A, such as `VTrace.advantage`.
      weight: min(rho_bar, pi(a|s) / mu(a|s)).
    """
    baseline = masked_mean(advantage, mask) / jnp.maximum(masked_mean(weight, mask), 1e-8)
    return masked_whiten(advantage - weight * baseline, mask)


def last_real_step(mask: Bool[Array, "T N"]) -> Bool[Array, "T N"]:
    """True at the last unmasked step of each column."""
    return mask & (jnp.cumsum(mask[::-1], axis=0)[::-1] == 1)


def _discounted_sum(x, decay, cut, mask):
    """y_t = x_t + decay * y_{t+1}; `cut` drops the second term, masked steps give y_{t+1}."""
    x = jnp.where(mask, x, 0.0)
    cut = cut & mask
    decay = jnp.where(mask, decay, jnp.ones_like(x))

    def step(later, inputs):
        x_t, decay_t, cut_t = inputs
        now = x_t + decay_t * jnp.where(cut_t, 0.0, later)
        return now, now

    _, y = jax.lax.scan(step, jnp.zeros_like(x[0]), (x, decay, cut), reverse=True, unroll=UNROLL)
    return y


def _centred_groups(score, group_size):
    """Scores as [groups, group_size], the same minus the group mean, and whether all are equal."""
    if group_size < 1 or score.shape[0] % group_size:
        raise ValueError(f"{score.shape[0]} scores do not divide into groups of {group_size}")
    groups = score.reshape(-1, group_size)
    centred = groups - jnp.mean(groups, axis=1, keepdims=True)
    # Compare the scores themselves: the mean of equal numbers can be off by a rounding error.
    no_spread = jnp.max(groups, axis=1, keepdims=True) == jnp.min(groups, axis=1, keepdims=True)
    return groups, centred, no_spread


def _masked_variance(x, mask):
    mask = _all_true(x) if mask is None else mask
    squares = jnp.where(mask, jnp.square(x - masked_mean(x, mask)), 0.0)
    sums = across.total((jnp.sum(squares), jnp.sum(mask)))
    return sums[0] / jnp.maximum(sums[1] - 1, 1)


def _all_true(like):
    return jnp.ones(like.shape, bool)
