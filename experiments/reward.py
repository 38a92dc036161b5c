"""Trains a reward model for a token task: python -m experiments.reward --task sort --out DIR

    imitation -> two samples a prompt, ranked by gold -> Bradley-Terry (or steps, judged by the verifier) -> calibration

Gold is the task's own reward (`--reward`, process by default). `experiments.tokens --reward model:DIR` learns from the
result, and `--reward ensemble:DIR,DIR` from several of different seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
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
from agents.tokens.grpo import TokenGRPOConfig
from agents.tokens.pairs import Pairs
from agents.tokens.preference import response_scores, sample_pairs
from agents.tokens.reward_model import (
    RewardModel,
    RewardModelConfig,
    RewardParams,
    RewardState,
    StepLabels,
    gives_step_credit,
    step_labels,
)
from agents.tokens.sft import SFT, SFTConfig
from experiments.console import options
from experiments.console.display import Display
from experiments.console.exits import run_main
from experiments.console.flags import ImportFlag, parse_flags
from experiments.run import limits, presets, reward_models
from experiments.run.pair_files import read_pairs
from experiments.run.spec import TOKENS, env_factory, execute, full_name, make_env, token_env
from experiments.run.which import WhichTask

MODELS = Path("results/rewards")
BEST_OF = (1, 4, 16, 64)
HELD_OUT = 512  # pairs, and prompts that are asked once each for the calibration
PROMPTS = 64  # that best of n is measured on
_PARTS = 10  # lines of progress


@dataclasses.dataclass(frozen=True)
class RewardFlags:
    """Flags of `python -m experiments.reward`, in addition to those of the task and the model."""

    seed: int = 0
    """seed of all random numbers"""
    out: Path | None = None
    """the model's folder; None: a new one under results/rewards"""
    pairs: Path | None = None
    """FILE.jsonl with your own pairs; None: samples of the imitated policy, ranked by gold score"""
    imitation_steps: int | None = None
    """gradient steps of imitation of the policy that generates the samples; None: the task's preset for GRPO"""
    imports: ImportFlag = ()
    """a Python file to execute first; it may register tasks; may be given several times"""


@dataclasses.dataclass(frozen=True)
class Order:
    """The command line, read and checked."""

    run: RewardFlags
    config: RewardModelConfig
    env_name: str
    env_kwargs: dict[str, Any]
    env: Any
    policy: SFT
    pairs: Pairs | None


def main() -> None:
    run_main(lambda: train(sys.argv[1:]))


def train(argv: Sequence[str]) -> int:
    """Trains, measures and saves a model; returns the exit code. Raises ValueError and OSError on bad input."""
    order = read(argv)
    display = Display()
    folder = order.run.out or _new_folder(order)
    key, pair_key, start_key = jax.random.split(
        jax.random.fold_in(jax.random.key(order.run.seed), 1), 3
    )
    # By the seed alone, as every run with these settings begins.
    policy = jax.jit(lambda k: order.policy.start(k)["params"])(jax.random.key(order.run.seed))
    display.say(f"policy: {order.policy.config.imitation_steps} steps of imitation")
    judge = order.env.replace(reward_kind="process")
    every_token = order.config.kind == "process" and gives_step_credit(judge)
    model = RewardModel(order.config, order.env.vocabulary_size, order.env.pad, every_token)
    pairs, labels = training_set(order, policy, pair_key, every_token)
    share = float(np.mean(np.asarray(pairs.weight) > 0))
    display.say(f"{len(pairs.weight)} pairs, {1 - share:.0%} of them ties that train nothing")
    if share == 0 and order.config.kind == "bradley-terry":
        raise ValueError("every pair is a tie: more --imitation-steps, or --reward process")
    layers = policy["policy"] if order.config.from_policy else None
    state = fit(model, model.start(start_key, layers), pairs, labels, display)
    params, report = measure(order, model, state.params, policy, key)
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
    _show(report, folder, display)
    return 0


def read(argv: Sequence[str]) -> Order:
    """Reads the command line. Raises ValueError with one line for whatever is wrong; nothing is written."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--task", default=WhichTask.default)
    first.add_argument("--import", dest="imports", action="append", default=[])
    try:
        known = first.parse_known_args(list(argv))[0]
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None
    execute(known.imports)
    name = full_name(token_env(known.task))
    factory = env_factory(name, "tokens")
    kinds = (RewardFlags, RewardModelConfig)
    taken = {"task"} | {field.name for kind in kinds for field in dataclasses.fields(kind)}
    has_reward = any(option.name == "reward" for option in options.options(factory))
    of_env = options.flags(factory, taken, {"reward": "process"} if has_reward else {})
    parts = [
        ("which", WhichTask(name.removeprefix(TOKENS))),
        ("run", RewardFlags()),
        ("environment", of_env.default),
        ("model", RewardModelConfig()),
    ]
    arguments = dataclasses.make_dataclass("Arguments", [(k, type(v)) for k, v in parts])
    what = "Trains a reward model for a token task."
    parsed = parse_flags(arguments, argv, arguments(*(v for _, v in parts)), what)
    run, config, kwargs = parsed.run, parsed.model, of_env.kwargs(parsed.environment)
    limits.require_seeds(run.seed, 1)
    if run.out is not None and run.out.exists():
        raise ValueError(f"{run.out} exists already and is not overwritten: choose another --out")
    env: Any = make_env(name, kwargs, "tokens")
    if run.pairs is not None and config.kind == "process":
        raise ValueError("--kind process judges samples by the verifier: leave out --pairs")
    pairs = None if run.pairs is None else read_pairs(run.pairs, env)
    RewardModel(config, 1, 0).total_steps(config.num_pairs if pairs is None else len(pairs.weight))
    return Order(run, config, name, kwargs, env, _policy(name, env, run), pairs)


def _policy(name: str, env: Any, run: RewardFlags) -> SFT:
    """The learner whose imitated policy writes the samples: by the settings with which GRPO would begin."""
    settings = vars(presets.preset(name, "grpo", TokenGRPOConfig))
    names = {field.name for field in dataclasses.fields(SFTConfig)}
    config = SFTConfig(**{name: value for name, value in settings.items() if name in names})
    if run.imitation_steps is not None:
        config = dataclasses.replace(config, imitation_steps=run.imitation_steps)
    return SFT(config, env)


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


def fit(
    model: RewardModel,
    state: RewardState,
    pairs: Pairs,
    labels: StepLabels | None,
    display: Display,
) -> RewardState:
    """Returns the state after the whole training; a line of progress for each tenth."""
    total = model.total_steps(len(pairs.weight))
    size = -(-total // _PARTS)

    @jax.jit
    def several(state: RewardState, n: jax.Array) -> tuple[RewardState, dict[str, jax.Array]]:
        shapes = jax.eval_shape(lambda s: model.step(s, pairs, labels)[1], state)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def body(_, carry):
            state, sums = carry
            state, metrics = model.step(state, pairs, labels)
            return state, jax.tree.map(jnp.add, sums, metrics)

        return jax.lax.fori_loop(0, n, body, (state, zeros))

    for begin in range(0, total, size):
        n = min(size, total - begin)
        state, sums = several(state, jnp.int32(n))
        means = {name: float(x) / n for name, x in sums.items()}
        display.say(
            f"step {begin + n} of {total}  loss {means['loss']:.3f}  accuracy {means['accuracy']:.3f}"
        )
    return state


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
