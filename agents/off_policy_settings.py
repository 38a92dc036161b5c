"""Settings of learners with a replay buffer."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from agents.settings import Settings, require

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
    """Further settings of learners with additive exploration noise."""

    noise_correlation: float = 0.0
    """correlation of exploration noise between successive steps; 0: independent (DDPG's paper: 0.85)"""

    def __post_init__(self):
        super().__post_init__()
        require(
            0 <= self.noise_correlation < 1,
            f"noise_correlation must be at least 0 and below 1, got {self.noise_correlation}",
        )
