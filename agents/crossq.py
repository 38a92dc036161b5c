"""SAC with modern critics, by name: sets of options of `agents.sac`, which has the update.

- `CrossQ`: no target networks, batch renormalisation in critics and actor, one critic step in three for the actor.
  Bhatt et al. 2024, https://openreview.net/forum?id=PczQtTsTIX. The paper's critics have 2048 units a layer
  (`--critic-hidden-sizes 2048 2048`); here it is 256, for CPUs.
- `XQC`: batch normalisation, a categorical critic, weights of length 1, rewards scaled by the deviation of returns.
  Palenicek et al. 2025, https://arxiv.org/abs/2509.25174.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from agents.off_policy_settings import Norm
from agents.sac import SAC, SACConfig


@dataclasses.dataclass(frozen=True)
class CrossQConfig(SACConfig):
    """Settings of `CrossQ`."""

    learning_rate: float = 1e-3
    """Adam's step size, at first"""
    adam_b1: float = 0.5
    """decay of Adam's mean of gradients"""
    policy_delay: int = 3
    """gradient steps of the critics per step of the actor and the temperature"""
    target_networks: bool = False
    """targets from moving averages of the networks; False: from the networks themselves, which are evaluated on both
    states of a transition at once"""
    critic_norm: Norm = "batch-renorm"
    """normalisation in the critics' hidden layers; with a batch norm, of the inputs too"""
    actor_norm: Norm = "batch-renorm"
    """the same for the actor"""


@dataclasses.dataclass(frozen=True)
class XQCConfig(SACConfig):
    """Settings of `XQC`."""

    critic_norm: Norm = "batch"
    """normalisation in the critics' hidden layers; with a batch norm, of the inputs too"""
    num_atoms: int | None = 101
    """atoms of the distribution that a critic predicts, fitted by cross entropy; None: it predicts one number"""
    weight_norm: bool = True
    """scale the weights of each hidden unit of the critics to length 1 after each gradient step"""
    normalize_returns: bool = True
    """divide rewards by the running standard deviation of discounted returns"""


class CrossQ(SAC):
    """SAC without target networks, by batch renormalisation."""

    Config: ClassVar[type] = CrossQConfig


class XQC(SAC):
    """SAC with batch-normalised, categorical critics of unit weights."""

    Config: ClassVar[type] = XQCConfig
