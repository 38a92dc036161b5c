"""Trains with a rival's learner on request: rival_learner.py sbx|sb3|rejax TASK SETTINGS, with SETTINGS as JSON.

Uses the protocol of rival_worker.py beside it. Stand-alone: it runs in interpreters that lack this project.
"""

import json
import sys

from rival_worker import serve  # type: ignore[import-not-found] # takes this folder from the path


def sbx(task, settings):
    """Returns SBX: Stable-Baselines3's loop and buffers, learning with JAX."""
    import sbx  # type: ignore[import-not-found]

    return _slices(
        getattr(sbx, settings["algo"])("MlpPolicy", task, **settings["arguments"]), settings
    )


def sb3(task, settings):
    """Returns Stable-Baselines3 with PyTorch, on a CPU, as it recommends for networks of this size."""
    import stable_baselines3  # type: ignore[import-not-found]

    learner = getattr(stable_baselines3, settings["algo"])
    return _slices(learner("MlpPolicy", task, device="cpu", **settings["arguments"]), settings)


def _slices(model, settings):
    """Returns a measurement of a model that is compiled and past its random steps."""
    model.learn(settings["warm_up"], log_interval=None)

    def run():
        before = model.num_timesteps
        model.learn(settings["slice"], log_interval=None, reset_num_timesteps=False)
        return model.num_timesteps - before

    return run


def rejax(task, settings):
    """Returns Rejax: JAX, all of the training in one program."""
    import jax
    import rejax  # type: ignore[import-not-found]

    algo = getattr(rejax, settings["algo"]).create(env=task, **settings["arguments"])
    algo = algo.replace(eval_callback=lambda algo, state, key: ())
    train = jax.jit(lambda state: algo.train(train_state=state)[0], donate_argnums=0)
    state = jax.jit(algo.init_state)(jax.random.key(0))

    def run():
        nonlocal state
        state = jax.block_until_ready(train(state))
        return settings["arguments"]["total_timesteps"]

    return run


if __name__ == "__main__":
    kind, task, settings = sys.argv[1:]
    serve({"sbx": sbx, "sb3": sb3, "rejax": rejax}[kind](task, json.loads(settings)))
