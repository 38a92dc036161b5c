"""Settings of learners with a replay buffer."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from agents.settings import Settings, require

Norm = Literal["none", "layer", "batch", "batch-renorm"]
ITERATION_STEPS = 256  # environment steps of an iteration, about


@dataclasses.dataclass(frozen=True)
class OffPolicyConfig(Settings):
    """Fields of every learner with a replay buffer. Raises ValueError, in one line, for impossible values."""

    total_steps: int = 1_000_000
    """environment steps of the whole run, warm-up included"""
    num_envs: int = 1
    """number of parallel environments"""
    num_steps: int = 1
    """steps of each environment per iteration"""
    update_ratio: float = 1.0
    """gradient steps per environment step"""
    warmup_steps: int = 5_000
    """environment steps with random actions, before learning starts"""
    buffer_size: int = 1_000_000
    """capacity of the replay buffer, in environment steps"""
    batch_size: int = 256
    """transitions per gradient step"""
    n_step: int = 1
    """rewards of a target before the bootstrap"""
    learning_rate: float = 3e-4
    """initial learning rate of Adam"""
    learning_rate_schedule: Literal["linear", "constant"] = "constant"
    """linear: falls to zero at total_steps"""
    gamma: float = 0.99
    """discount"""
    normalize_observations: bool = False
    """normalise observations by running mean and variance"""
    tau: float = 0.005
    """rate of the target network's moving average, applied at each gradient step (TD3: every policy_delay-th; DQN with
    hard updates: never)"""
    max_grad_norm: float | None = None
    """largest norm of the gradient, which is clipped to it; None: no clipping"""
    hidden_sizes: tuple[int, ...] = (256, 256)
    """units of each hidden layer"""
    activation: Literal["tanh", "relu", "elu", "swish"] = "relu"
    """activation of the hidden layers"""

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least_one(
            "total_steps", "num_envs", "num_steps", "batch_size", "n_step", "buffer_size"
        )
        self.require_positive("learning_rate", "max_grad_norm", "update_ratio")
        self.require_share("gamma")
        require(0 < self.tau <= 1, f"tau must be in (0, 1], got {self.tau}")
        self.require_hidden_sizes(self.hidden_sizes)
        self.require_not_negative("warmup_steps")
        self.require_count("num_envs x num_steps", self.round_steps)
        self.require_count("batch_size x n_step", self.batch_size * self.n_step)
        self.require_count(
            "update_ratio x total_steps, the gradient steps,",
            math.ceil(self.update_ratio * self.total_steps),
        )
        exact = self.update_ratio * self.round_steps
        require(
            math.isfinite(exact) and abs(exact - round(exact)) < 1e-6 and round(exact) >= 1,
            f"update_ratio {self.update_ratio} of {self.round_steps} environment steps a round is {exact:g} gradient "
            "steps, not a whole number: change num_steps or num_envs",
        )
        require(
            self.buffer_size // self.num_envs >= self.num_steps + self.n_step,
            f"buffer_size {self.buffer_size} is too small for {self.num_envs} environments",
        )

    @property
    def round_steps(self) -> int:
        """Environment steps of a round: those between updates."""
        return self.num_envs * self.num_steps

    @property
    def round_updates(self) -> int:
        """Gradient steps of a round."""
        return round(self.update_ratio * self.round_steps)

    @property
    def rounds(self) -> int:
        """Rounds of an iteration."""
        return max(1, ITERATION_STEPS // self.round_steps)


@dataclasses.dataclass(frozen=True)
class ContinuousConfig(OffPolicyConfig):
    """Further settings of learners with additive exploration noise, whose critics may be modern ones (see
    `agents.critics`)."""

    noise_correlation: float = 0.0
    """correlation of exploration noise between successive steps; 0: independent (DDPG's paper: 0.85)"""
    target_networks: bool = True
    """targets from moving averages of the networks; False: from the networks themselves, which are evaluated on both
    states of a transition at once (CrossQ)"""
    critic_norm: Norm = "none"
    """normalisation in the critics' hidden layers; with a batch norm, of the inputs too"""
    actor_norm: Norm = "none"
    """the same for the actor (SAC)"""
    renorm_warmup: int = 100_000
    """gradient steps in which batch-renorm is plain batch normalisation"""
    critic_hidden_sizes: tuple[int, ...] | None = None
    """units of each hidden layer of the critics; None: hidden_sizes"""
    num_atoms: int | None = None
    """atoms of the distribution that a critic predicts, fitted by cross entropy; None: it predicts one number"""
    value_bound: float = 5.0
    """the atoms lie in +- this (num_atoms): rewards must be scaled to fit, see normalize_returns"""
    weight_norm: bool = False
    """scale the weights of each hidden unit of the critics to length 1 after each gradient step"""
    normalize_returns: bool = False
    """divide rewards by the running standard deviation of discounted returns"""
    adam_b1: float = 0.9
    """decay of Adam's mean of gradients (CrossQ: 0.5)"""

    @property
    def has_modern_critics(self) -> bool:
        """True if the critics have one of the options of `agents.critics`."""
        plain = self.target_networks and self.critic_norm == "none" and not self.weight_norm
        return not plain or self.num_atoms is not None

    def __post_init__(self):
        super().__post_init__()
        if self.critic_hidden_sizes is not None:
            self.require_hidden_sizes(self.critic_hidden_sizes)
        require(
            self.num_atoms is None or self.num_atoms >= 2,
            f"num_atoms must be at least 2, got {self.num_atoms}: a distribution has several values",
        )
        self.require_positive("value_bound")
        self.require_not_negative("renorm_warmup")
        require(
            0 <= self.adam_b1 < 1, f"adam_b1 must be at least 0 and below 1, got {self.adam_b1}"
        )
        require(
            0 <= self.noise_correlation < 1,
            f"noise_correlation must be at least 0 and below 1, got {self.noise_correlation}",
        )
