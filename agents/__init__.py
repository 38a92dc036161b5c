"""The algorithms, by the name that `--algo` takes: of control, in an environment or from a dataset, and of token
tasks."""

from agents.actor_critic import A2C
from agents.crossq import XQC, CrossQ
from agents.dqn import DQN
from agents.grpo import GRPO
from agents.impala import IMPALA
from agents.offline.awr import AWR
from agents.offline.bc import BC
from agents.offline.cql import CQL
from agents.offline.decision_transformer import DecisionTransformer
from agents.offline.iql import IQL
from agents.offline.percent_bc import PercentBC
from agents.offline.td3_bc import TD3BC
from agents.ppo import PPO
from agents.pqn import PQN
from agents.pref_ppo import PrefPPO
from agents.reinforce import Reinforce
from agents.sac import SAC
from agents.tabular.dynamic_programming import PolicyIteration, ValueIteration
from agents.tabular.q_learning import SARSA, ExpectedSARSA, QLearning
from agents.td3 import DDPG, TD3
from agents.tokens.cispo import CISPO
from agents.tokens.dapo import DAPO
from agents.tokens.dpo import DPO
from agents.tokens.dr_grpo import DrGRPO
from agents.tokens.grpo import TokenGRPO
from agents.tokens.gspo import GSPO
from agents.tokens.ipo import IPO
from agents.tokens.kto import KTO
from agents.tokens.orpo import ORPO
from agents.tokens.ppo import TokenPPO
from agents.tokens.reinforce import TokenReinforce
from agents.tokens.reinforce_plus_plus import ReinforcePlusPlus
from agents.tokens.rejection import Rejection
from agents.tokens.rloo import RLOO
from agents.tokens.sft import SFT
from agents.tokens.simpo import SimPO
from agents.trpo import TRPO

ALGORITHMS = {
    "ppo": PPO,
    "trpo": TRPO,
    "a2c": A2C,
    "reinforce": Reinforce,
    "grpo": GRPO,
    "dqn": DQN,
    "pqn": PQN,
    "sac": SAC,
    "td3": TD3,
    "ddpg": DDPG,
    "impala": IMPALA,
    "crossq": CrossQ,
    "xqc": XQC,
    "pref-ppo": PrefPPO,
    "q-learning": QLearning,
    "sarsa": SARSA,
    "expected-sarsa": ExpectedSARSA,
    "value-iteration": ValueIteration,
    "policy-iteration": PolicyIteration,
}

OFFLINE_ALGORITHMS = {  # they learn from a dataset
    "bc": BC,
    "percent-bc": PercentBC,
    "awr": AWR,
    "td3-bc": TD3BC,
    "iql": IQL,
    "cql": CQL,
    "decision-transformer": DecisionTransformer,
}

TOKEN_ALGORITHMS = {
    "sft": SFT,
    "rejection": Rejection,
    "reinforce": TokenReinforce,
    "rloo": RLOO,
    "ppo": TokenPPO,
    "grpo": TokenGRPO,
    "dr-grpo": DrGRPO,
    "dpo": DPO,
    "ipo": IPO,
    "kto": KTO,
    "simpo": SimPO,
    "orpo": ORPO,
    "dapo": DAPO,
    "gspo": GSPO,
    "cispo": CISPO,
    "reinforce++": ReinforcePlusPlus,
}
