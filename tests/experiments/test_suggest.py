"""What is suggested for a name that nobody has here."""

import dataclasses

import pytest

from agents import ALGORITHMS, TOKEN_ALGORITHMS
from experiments.console import suggest
from experiments.console.flags import dashed
from experiments.run.command import RunFlags


def flags_of(algorithm):
    kinds = (RunFlags, algorithm.Config)
    return [f"--{dashed(f.name)}" for kind in kinds for f in dataclasses.fields(kind)] + ["--env"]


CONTROL = {name: flags_of(algorithm) for name, algorithm in ALGORITHMS.items()}
TOKENS = {name: flags_of(algorithm) for name, algorithm in TOKEN_ALGORITHMS.items()}


@pytest.mark.parametrize(
    ("flags", "given", "ours"),
    [
        (CONTROL["ppo"], "--lr", "learning-rate"),
        (CONTROL["ppo"], "--n-envs", "num-envs"),
        (CONTROL["ppo"], "--n_steps", "num-steps"),
        (CONTROL["ppo"], "--steps", "total-steps"),
        (CONTROL["ppo"], "--total-timesteps", "total-steps"),
        (CONTROL["ppo"], "--max-iters", "total-steps"),
        (CONTROL["ppo"], "--ent-coef", "entropy-coefficient"),
        (CONTROL["ppo"], "--vf-coef", "value-coefficient"),
        (CONTROL["ppo"], "--clip-range", "clip-ratio"),
        (CONTROL["ppo"], "--batch-size", "num-minibatches"),
        (CONTROL["ppo"], "--lam", "gae-lambda"),
        (CONTROL["ppo"], "--GAE", "gae-lambda"),
        (CONTROL["ppo"], "--net-arch", "hidden-sizes"),
        (CONTROL["ppo"], "--layers", "hidden-sizes"),
        (CONTROL["ppo"], "--target-kl", "stop-kl"),
        (CONTROL["trpo"], "--target-kl", "max-kl"),
        (CONTROL["trpo"], "--n-epochs", "value-epochs"),
        (CONTROL["pqn"], "--lam", "q-lambda"),
        (CONTROL["sac"], "--ent-coef", "alpha"),
        (CONTROL["dqn"], "--buffer", "buffer-size"),
        (CONTROL["dqn"], "--exploration-fraction", "epsilon-fraction"),
        (CONTROL["td3"], "--exploration", "exploration-noise"),
        (CONTROL["td3"], "--learning-starts", "warmup-steps"),
        (CONTROL["q-learning"], "--lr", "step-size"),
        (TOKENS["grpo"], "--lr", "learning-rate"),
        (TOKENS["grpo"], "--beta", "kl-coefficient"),
        (TOKENS["grpo"], "--num-generations", "group-size"),
        (TOKENS["sft"], "--n-layers", "layers"),
    ],
)
def test_names_of_other_libraries_lead_to_ours(flags, given, ours):
    assert suggest.flag_suggestion(given, flags) == f"did you mean --{ours}?"


def test_only_flags_that_the_command_has_are_suggested():
    for flags in (*CONTROL.values(), *TOKENS.values()):
        for given in ("lr", "buffer", "ent-coef", "clip-range", "batch-size", "lam", "net-arch"):
            said = suggest.flag_suggestion(f"--{given}", flags)
            assert said == "see --help" or said.removeprefix("did you mean ")[:-1] in flags


def test_each_name_of_the_table_is_a_flag_of_some_command():
    everything = {flag for flags in (*CONTROL.values(), *TOKENS.values()) for flag in flags}
    everything |= {"--task", "--max-episode-steps"}
    assert {f"--{ours}" for ours in suggest._ELSEWHERE} <= everything


def test_what_is_very_long_is_quoted_in_part():
    assert suggest.quoted("a b") == "'a b'"
    assert len(suggest.quoted("x" * 10_000)) < 120
