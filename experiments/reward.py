"""Trains a reward model for a token task: python -m experiments.reward --task sort --out DIR

    imitation -> two samples a prompt, ranked by gold -> Bradley-Terry (or steps, judged by the verifier) -> calibration

Gold is the task's own reward (`--reward`, process by default). `experiments.tokens --reward model:DIR` learns from the
result, and `--reward ensemble:DIR,DIR` from several of different seeds. Stopped at any moment, `--resume DIR` goes on.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import envs  # isort: skip  # noqa: F401  sets XLA's flags before JAX starts
import jax
import jax.numpy as jnp
import numpy as np

from agents.core.reward_scores import best_of_n
from agents.tokens.pairs import Pairs
from agents.tokens.preference import response_scores, sample_pairs
from agents.tokens.reward_model import (
    RewardModel,
    RewardParams,
    StepLabels,
    gives_step_credit,
    step_labels,
)
from envs import process
from experiments.console.display import Display
from experiments.console.exits import FAILED, fail, leave, run_main
from experiments.console.locks import exclusive_lock
from experiments.console.signals import RunInterruptedError, Stop, Worker
from experiments.run import folders, reward_models, reward_training
from experiments.run.compile_cache import keep_programs
from experiments.run.reward_order import Order, RewardFlags, read
from experiments.run.reward_training import Control
from experiments.run.spec import TOKENS

__all__ = ["RewardFlags", "main", "train"]

MODELS = Path("results/rewards")
BEST_OF = (1, 4, 16, 64)
HELD_OUT = 512  # pairs, and prompts that are asked once each for the calibration
PROMPTS = 64  # that best of n is measured on


def main() -> None:
    process.draw_in_loop()
    run_main(lambda: train(sys.argv[1:]))


def train(argv: Sequence[str]) -> int:
    """Trains, measures and saves a model; returns the exit code. Raises ValueError and OSError on bad input."""
    order = read(argv)
    display = Display()
    if warning := keep_programs(order.run.compile_cache):
        display.warn(warning)
    folder = order.run.resume or order.run.out or folders.reserve(_new_folder(order))
    resume_with = f"resume with: python -m experiments.reward --resume {folders.quoted(folder)}"
    with exclusive_lock(folder, "another process"):
        if order.run.resume is None:
            reward_training.begin(folder, order.to_json())
        try:
            with Stop() as stop, Worker(stop) as worker:
                _train(order, folder, display, Control(stop, worker))
        except RunInterruptedError as stopped:
            display.say(f"stopped; {resume_with}")
            code = 128 + stopped.signum
            return leave(code) if stopped.at_work else code
        except OSError as error:  # a full disk, say: what was saved before is whole
            fail(error)
            display.say(f"when that is fixed, {resume_with}")
            return FAILED
        except ValueError:
            if order.run.resume is None:
                reward_training.discard(folder)
            raise
    return 0


def _train(order: Order, folder: Path, display: Display, control: Control) -> None:
    """Trains in a folder that is this process's own."""
    key, pair_key, start_key = jax.random.split(
        jax.random.fold_in(jax.random.key(order.run.seed), 1), 3
    )
    # By the seed alone, as every run with these settings begins.
    imitated = jax.jit(lambda k: order.policy.start(k)["params"])
    policy = control.call(imitated, jax.random.key(order.run.seed))
    display.say(f"policy: {order.policy.config.imitation_steps} steps of imitation")
    judge = order.env.replace(reward_kind="process")
    every_token = order.config.kind == "process" and gives_step_credit(judge)
    model = RewardModel(order.config, order.env.vocabulary_size, order.env.pad, every_token)
    pairs, labels = control.call(training_set, order, policy, pair_key, every_token)
    share = float(np.mean(np.asarray(pairs.weight) > 0))
    display.say(f"{len(pairs.weight)} pairs, {1 - share:.0%} of them ties that train nothing")
    if share == 0 and order.config.kind == "bradley-terry":
        raise ValueError("every pair is a tie: more --imitation-steps, or --reward process")
    layers = policy["policy"] if order.config.from_policy else None
    state = reward_training.fit(
        folder, model, lambda: model.start(start_key, layers), pairs, labels, display, control
    )
    params, report = control.call(measure, order, model, state.params, policy, key)
    if not all(np.isfinite(x) for x in (params.mean, params.std)):
        raise ValueError("the model scores NaN: lower --learning-rate")
    reward_models.save(
        folder,
        model,
        params,
        env_name=order.env_name,
        env_kwargs=order.env_kwargs,
        env=order.env,
        seed=order.run.seed,
        report=report,
    )
    reward_training.finish(folder)
    _show(report, folder, display)


def training_set(
    order: Order, policy: Any, key: jax.Array, every_token: bool
) -> tuple[Pairs, StepLabels | None]:
    """Returns the pairs, and for a process reward model the verifier's judgement of their steps."""
    pairs = order.pairs
    if pairs is None:
        config = order.config
        noise = config.label_temperature, config.label_flips
        pairs = _sampled(order, policy, key, order.env.prompts, config.num_pairs, noise)
    if order.config.kind != "process":
        return pairs, None
    env = order.env.replace(reward_kind="process")
    rows = pairs.prompts_twice, pairs.responses, pairs.lengths
    return pairs, jax.jit(lambda p, r, n: step_labels(env, p, r, n, every_token))(*rows)


def measure(
    order: Order, model: RewardModel, params: Any, policy: Any, key: jax.Array
) -> tuple[RewardParams, dict[str, Any]]:
    """Returns the calibrated parameters, and how well they agree with gold on held-out prompts."""
    env, learner = order.env, order.policy
    pair_key, prompt_key, sample_key, n_key, best_key = jax.random.split(key, 5)

    @jax.jit
    def calibrated(params, policy):
        prompts = env.prompts(prompt_key, HELD_OUT)
        found = learner.respond(policy, prompts, sample_key)
        return model.calibrate(params, prompts, found.tokens, found.length)

    whole = calibrated(params, policy)
    pairs = _sampled(order, policy, pair_key, env.held_out, HELD_OUT)

    @jax.jit
    def best(params, policy):
        prompts = jnp.repeat(env.held_out(n_key, PROMPTS), BEST_OF[-1], axis=0)
        found = learner.respond(policy, prompts, best_key)
        proxy = model.score(params, prompts, found.tokens, found.length)
        gold = response_scores(learner, prompts, found)
        proxy, gold = (x.reshape(PROMPTS, -1).T for x in (proxy, jnp.nan_to_num(gold)))
        return [jnp.mean(best_of_n(proxy, x), axis=1) for x in (gold, proxy)]

    gold, proxy = (np.asarray(x) for x in best(whole, policy))
    ties = float(np.mean(np.asarray(pairs.weight) == 0))
    report = {
        "held_out_pairs": HELD_OUT,
        "held_out_ties": ties,
        "agreement": _pair_agreement(model, whole, pairs),
        "gold_best_of": {str(n): float(gold[n - 1]) for n in BEST_OF},
        "proxy_best_of": {str(n): float(proxy[n - 1]) for n in BEST_OF},
        "imitation_steps": learner.config.imitation_steps,
    }
    return whole, report


def _pair_agreement(model: RewardModel, params: RewardParams, pairs: Pairs) -> float:
    """Share of pairs, ties of gold left out, whose chosen response scores higher; half of it where scores are equal."""
    rows = pairs.prompts_twice, pairs.responses, pairs.lengths
    scores = np.asarray(jax.jit(model.raw_score)(params.model, *rows))
    lead = np.subtract(*np.split(scores, 2))
    return float(np.average(0.5 + 0.5 * np.sign(lead), weights=np.asarray(pairs.weight) + 1e-12))


def _sampled(
    order: Order,
    policy: Any,
    key: jax.Array,
    prompts_of: Callable[[jax.Array, int], jax.Array],
    n: int,
    noise: tuple[float, float] = (0.0, 0.0),
) -> Pairs:
    """Pairs of the policy's samples, ranked by gold, with noise of the labels: temperature and flips."""
    temperature, flips = noise

    @jax.jit
    def make(policy, key):
        prompt_key, key = jax.random.split(key)
        return sample_pairs(
            order.policy,
            policy,
            prompts_of(prompt_key, n),
            key,
            temperature=temperature,
            flips=flips,
            at_once=512,
        )

    return make(policy, key)


def _new_folder(order: Order) -> Path:
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    task = order.env_name.rpartition(":")[2].removeprefix(TOKENS)
    return MODELS / f"{task}-{order.config.kind}-s{order.run.seed}-{now}"


def _show(report: dict[str, Any], folder: Path, display: Display) -> None:
    gold, proxy = report["gold_best_of"], report["proxy_best_of"]
    rows = [
        ("agreement with gold", f"{report['agreement']:.3f} of held-out pairs, ties left out"),
        *((f"best of {n}", f"gold {gold[n]:.3f}, proxy {proxy[n]:+.2f}") for n in gold),
    ]
    display.table("reward model, on held-out prompts", rows)
    display.say(str(folder))
    display.say(f"to learn from it: python -m experiments.tokens --reward model:{folder}")


if __name__ == "__main__":
    main()
