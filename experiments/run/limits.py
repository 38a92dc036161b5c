"""Refuses impossible runs before compilation: counts beyond 32 bits, and more memory than the machine has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from agents.settings import COUNT_LIMIT, shown
from experiments.console.flags import dashed
from experiments.evaluation import best_of, tokens
from experiments.evaluation.evaluator import evaluator
from experiments.run import memory
from experiments.run.programs import Programs, programs_of
from experiments.run.progress import env_steps, total_iterations
from experiments.run.spec import Spec, learner

# (spec, algorithm, its programs) to bytes.
_Estimate = Callable[[Spec, Any, Programs], int]


def require_seeds(seed: int, seeds: int) -> None:
    """Raises ValueError for seeds that 31 bits cannot hold."""
    if not 0 <= seed < COUNT_LIMIT:
        raise ValueError(f"--seed must be between 0 and {COUNT_LIMIT - 1}, got {shown(seed)}")
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {shown(seeds)}")
    if seed + seeds > COUNT_LIMIT:
        raise ValueError(f"--seeds must be at most {COUNT_LIMIT - seed}, got {shown(seeds)}")


def whole_iterations(spec: Spec, env: Any) -> tuple[Spec, str | None]:
    """Returns the spec with its total of steps rounded up to whole iterations, and a line that reports it, or None.
    Raises ValueError where the total has more than 32 bits."""
    algo = learner(spec, env)
    asked = spec.config.total_steps
    for what, steps in (("an iteration", algo.iteration_steps), ("warm-up", env_steps(algo, 0))):
        if steps >= COUNT_LIMIT:
            raise ValueError(f"{what} has {steps} steps, and must have less than {COUNT_LIMIT}")
    total = env_steps(algo, total_iterations(asked, algo))
    if total >= COUNT_LIMIT:
        raise ValueError(f"--total-steps must be below {COUNT_LIMIT}, got {total}")
    if total == asked:
        return spec, None
    warmup = env_steps(algo, 0)
    note = f"{asked} steps rounded up to {total}: iterations of {algo.iteration_steps} steps"
    note += f" after {warmup} of warm-up" if warmup else ""
    return dataclasses.replace(
        spec, config=dataclasses.replace(spec.config, total_steps=total)
    ), note


def replay_memory(algo: Any, seeds: int) -> str | None:
    """Returns a line on the memory of the replay buffer; None without one."""
    size = seeds * algo.buffer_bytes()
    if size == 0:
        return None
    return f"replay buffer: {human_bytes(size)}" + (f" ({seeds} seeds)" if seeds > 1 else "")


def traced_programs(spec: Spec, algo: Any, data: Any = None) -> Programs:
    """Returns the run's programs, not compiled yet. Raises ValueError where one of them needs more memory than is
    free. `data`: of `step`."""
    programs = programs_of(spec, algo, data)
    for what, estimate in _ESTIMATES.items():
        size, free = estimate(spec, algo, programs), memory.free_on_device()
        if free is not None and size > free:
            raise ValueError(
                f"memory: {what} would take {human_bytes(size)} or more, and {human_bytes(max(free, 0))} are free: "
                + f"lower {_culprit(spec, algo, estimate, data)}"
            )
    return programs


def _replay_buffer(spec: Spec, algo: Any, programs: Programs) -> int:
    return spec.seeds * algo.buffer_bytes()


def _model(spec: Spec, algo: Any, programs: Programs) -> int:
    """Estimates parameters, their two moments and the reference, in single precision, before a deep model is even
    traced. Beside adapters the parameters are alone."""
    if spec.domain != "tokens":
        return 0
    copies = 1 if spec.config.lora else 4
    return 4 * copies * spec.seeds * algo.model_config.parameters


def _beginning(spec: Spec, algo: Any, programs: Programs) -> int:
    """Estimates the state, and the memory to make it."""
    keys = _keys(spec.seeds)
    state = memory.nbytes(programs.init.shapes(keys))
    return max(state, memory.peak(programs.init.jaxpr(keys)))


def _training(spec: Spec, algo: Any, programs: Programs) -> int:
    state = programs.init.shapes(_keys(spec.seeds))
    return memory.peak(
        programs.chunk.jaxpr(state, jax.ShapeDtypeStruct((), "int32"), *programs.given)
    )


def _evaluation(spec: Spec, algo: Any, programs: Programs) -> int:
    """Estimates evaluation beside the state; on a CPU the results of the final evaluation's batches lie in the same
    memory."""
    state = programs.init.shapes(_keys(spec.seeds))
    domain = evaluator(spec.domain)
    n = domain.episodes(spec.config.total_steps, algo)
    arguments = state, _keys(spec.seeds, n)
    results = memory.nbytes(programs.evaluate.shapes(*arguments))
    kept = results * (domain.final_batches(algo, n) - 1) if jax.default_backend() == "cpu" else 0
    return memory.nbytes(state) + memory.peak(programs.evaluate.jaxpr(*arguments)) + kept


def _best_of(spec: Spec, algo: Any, programs: Programs) -> int:
    """Estimates the answers of the best of n at the end."""
    if spec.best_of == 1:
        return 0
    state = programs.init.shapes(_keys(spec.seeds))
    return memory.nbytes(state) + best_of_bytes(
        algo, tokens.FINAL_PROMPTS, spec.best_of, algo.reward
    )


def best_of_bytes(algo: Any, num_prompts: int, most: int, reward: Any) -> int:
    """Returns the bytes that `best_of.best_of_shares` takes, at least."""
    params = jax.eval_shape(algo.init, _keys()).params

    def shares(params: Any, key: Any) -> Any:
        return best_of.best_of_shares(algo, params, key, num_prompts, most, reward)

    return memory.peak(jax.make_jaxpr(shares)(params, _keys()))


def require_room_for_answers(algo: Any, num_prompts: int, most: int, reward: Any) -> None:
    """Raises ValueError where so many answers to each prompt need more memory than is free."""
    size, free = best_of_bytes(algo, num_prompts, most, reward), memory.free_on_device()
    if free is not None and size > free:
        raise ValueError(
            f"memory: {most} answers to a prompt would take {human_bytes(size)} or more, and "
            f"{human_bytes(max(free, 0))} are free: lower --best-of"
        )


_ESTIMATES: dict[str, _Estimate] = {
    "the replay buffer": _replay_buffer,
    "the model with its optimiser": _model,
    "the networks, their optimisers and the environments": _beginning,
    "training, with its rollouts and batches,": _training,
    "an evaluation": _evaluation,
    "the answers that the best is picked from": _best_of,
}


def _keys(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jax.random.key(0).dtype)


def _culprit(spec: Spec, algo: Any, estimate: _Estimate, data: Any) -> str:
    """Returns the flag that lowers an estimate most when its value is halved, among those above the learner's defaults
    if there are any."""
    names = dict(_halved(spec))
    defaults = vars(type(spec.config)())
    raised = {n: s for n, s in names.items() if n not in defaults or _above(spec, n, defaults[n])}
    sizes = {}
    for name, smaller in (raised or names).items():
        try:
            halved = smaller.build() if name == _LIMIT else learner(smaller, algo.env)
            sizes[name] = estimate(smaller, halved, programs_of(smaller, halved, data))
        except (ValueError, TypeError):  # it does not fit the other settings
            continue
    return f"--{dashed(min(sizes, key=lambda name: sizes[name]))}" if sizes else "its sizes"


_LIMIT = "max_episode_steps"  # the environment's setting that counts


def _halved(spec: Spec) -> Iterator[tuple[str, Spec]]:
    """Yields the spec with one of its counts halved, by the count's name."""
    for field in dataclasses.fields(spec.config):
        value = getattr(spec.config, field.name)
        counts = value if isinstance(value, tuple) else (value,)
        if field.name == "total_steps" or not all(type(x) is int for x in counts):
            continue
        if not any(x > 1 for x in counts):
            continue
        half = tuple(max(1, x // 2) for x in counts)
        new = half if isinstance(value, tuple) else half[0]
        try:
            config = dataclasses.replace(spec.config, **{field.name: new})
        except ValueError:
            continue
        yield field.name, dataclasses.replace(spec, config=config)
    limit = spec.env_kwargs.get(_LIMIT)
    if isinstance(limit, int) and limit > 1:
        kwargs = {**spec.env_kwargs, _LIMIT: limit // 2}
        yield _LIMIT, dataclasses.replace(spec, env_kwargs=kwargs)
    if spec.best_of > 1:
        yield "best_of", dataclasses.replace(spec, best_of=spec.best_of // 2)
    if spec.seeds > 1:
        yield "seeds", dataclasses.replace(spec, seeds=spec.seeds // 2)


def _above(spec: Spec, name: str, default: Any) -> bool:
    value = getattr(spec.config, name)
    if isinstance(value, tuple) and isinstance(default, tuple):
        return sum(value) > sum(default)
    return isinstance(default, int) and value > default


def human_bytes(n: int) -> str:
    """Returns a size in words, such as 1.5 MiB: to three digits, or all before the point."""
    power = min(max(n.bit_length() - 1, 0) // 10, 3)
    amount = n / 1024**power
    digits = f"{amount:.3g}" if amount < 1000 else f"{amount:.0f}"
    return f"{digits} {('B', 'KiB', 'MiB', 'GiB')[power]}"
