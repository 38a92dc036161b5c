"""Low-rank adapters, layers that are computed again, logits in parts: the same numbers, another memory."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import TOKEN_ALGORITHMS
from agents.tokens import lora
from agents.tokens.generation import Sampling, chosen_log_probs, exact_kl
from agents.tokens.transformer import TransformerConfig, parameter_paths, policy_model
from envs.tokens import make_tokens
from tests.agents.tokens.small import SMALL

ENV = make_tokens("sort-3", "process")
SIZES = {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "mlp_width": 24}
MODEL = TransformerConfig(ENV.vocabulary_size, **SIZES)
SETTINGS = SMALL | {"imitation_steps": 0, "lora": 2, "lora_alpha": 8.0, "learning_rate": 0.05}
SETTINGS |= {"entropy_coefficient": 0.1, "warmup": 0.0}  # something to learn, whatever is right
TOKENS = jnp.array([[2, 3, 4, 5, 6], [7, 8, 2, 2, 3]])
PLACES = jnp.broadcast_to(jnp.arange(5, dtype=jnp.int32), TOKENS.shape)


@pytest.fixture(scope="module")
def base():
    return jax.tree.map(np.asarray, jax.jit(policy_model(MODEL).init)(jax.random.key(0)))


def logits(config, params):
    """Returns logits, and their gradient for something that depends on all of them."""

    @jax.jit
    def found(params):
        def total(params):
            model = policy_model(config).module(params)
            out = model.logits(model.hidden(TOKENS, PLACES))
            return jnp.sum(jnp.sin(out)), out

        return jax.grad(total, has_aux=True)(params)

    grads, out = found(params)
    return np.asarray(out), grads


def learner(name, **changes):
    kind = TOKEN_ALGORITHMS[name]
    fields = {**SETTINGS, "group_size": 4, "num_pairs": 16, **changes}
    known = kind.Config.__dataclass_fields__
    return kind(kind.Config(**{k: v for k, v in fields.items() if k in known}), ENV)


def stepped(name, base, steps=1, **changes):
    """Returns a learner with adapters, its first state, the state after some steps, and the last metrics."""
    algo = learner(name, **changes).starting_from(MODEL, base)
    first = jax.jit(algo.init)(jax.random.key(1))
    step, state = jax.jit(algo.step), first
    for _ in range(steps):
        state, metrics = step(state)
    return algo, first, state, metrics


@pytest.fixture(scope="module")
def grpo(base):
    return stepped("grpo", base, 2, measure_kl=True, num_minibatches=1)


def leaves(params):
    return dict(zip(parameter_paths(params), jax.tree.leaves(params), strict=True))


def require_base_unchanged(first, state, learns=True):
    """Every parameter but the adapters' is the same bit for bit; adapters moved, and have the only optimiser state."""
    before, after, moved = leaves(first.params), leaves(state.params), 0
    for path, x in before.items():
        trains = path.rpartition(".")[2] in lora.ADAPTERS or path == "critic.head.kernel"
        same = np.array_equal(x, after[path])
        assert same or trains, path
        moved += not same
    assert moved >= 2 * learns
    own = sorted(x.shape for x in lora.adapters(first.params))
    moments = sorted(x.shape for x in jax.tree.leaves(state.opt_state) if x.ndim)
    assert moments == sorted([*own, *own])
    assert [x.shape for x in state.reference] == [x.shape for x in lora.adapters(first.params)]


def test_at_first_nothing_changes_and_nothing_but_adapters_is_trained(base, grpo):
    algo, first, state, metrics = grpo
    require_base_unchanged(first, state)
    plain, _ = logits(MODEL, base)
    at_first, grads = logits(algo.model_config, first.params["policy"])
    np.testing.assert_array_equal(at_first, plain)
    later, _ = logits(algo.model_config, state.params["policy"])
    assert np.abs(later - plain).max() > 1e-3
    # The reference is the policy as it began, without a copy of the base.
    reference = lora.reference(algo.model_config, state.params, state.reference)
    np.testing.assert_array_equal(logits(algo.model_config, reference["policy"])[0], plain)
    assert metrics["kl_exact"] > 0
    # At the beginning B alone has a gradient, for A is multiplied by B = 0.
    sizes = {path: np.abs(x).max() for path, x in leaves(grads).items()}
    assert min(x for path, x in sizes.items() if path.endswith("lora_b")) > 0
    assert max(x for path, x in sizes.items() if path.endswith("lora_a")) == 0


def test_merged_is_unmerged(grpo):
    algo, _, state, _ = grpo
    unmerged, _ = logits(algo.model_config, state.params["policy"])
    config, params = lora.merged(algo.model_config, state.params["policy"])
    assert config == replace(MODEL, dtype="float32")
    np.testing.assert_allclose(logits(config, params)[0], unmerged, atol=1e-5)


def test_a_spread_of_a_that_is_peft_s(grpo):
    _, first, _, _ = grpo
    rows = [x for path, x in leaves(first.params).items() if path.endswith("lora_a")]
    numbers = np.concatenate([np.ravel(x) * (3 * x.shape[0]) ** 0.5 for x in rows])
    assert abs(numbers.mean()) < 0.15
    assert abs(numbers.std() - 1) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKEN_ALGORITHMS)
def test_every_learner(base, name):
    _, first, state, _ = stepped(name, base, 2)
    # A random model finds no right answer, and rejection sampling then imitates none.
    require_base_unchanged(first, state, name != "rejection")


def test_a_critic_has_adapters_and_a_head(base):
    algo = learner("ppo").starting_from(MODEL, base)
    state = jax.eval_shape(algo.init, jax.random.key(0))
    names = parameter_paths(state.params)
    own = lora.adapters(state.params)
    assert "critic.blocks.0.up.lora_a" in names
    assert len(own) == 2 * 2 * 7 + 1  # of two transformers, A and B of seven matrices, and the head


def test_layers_computed_again(base):
    plain, again = (logits(replace(MODEL, remat=x), base) for x in (False, True))
    np.testing.assert_array_equal(plain[0], again[0])
    for x, y in zip(*map(jax.tree.leaves, (plain[1], again[1])), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def test_logits_in_parts(base, monkeypatch):
    """Leaves values and gradients of log-probs, entropy and KL as they are, with 10 tokens, 4 at a time."""
    allowed = jnp.ones((*TOKENS.shape, MODEL.vocabulary), bool).at[:, :, 0].set(False)
    allowed = allowed.at[0, 0].set(True)

    def found():
        @jax.jit
        def all_of(params):
            def total(params):
                model = policy_model(MODEL).module(params)
                hidden = model.hidden(TOKENS, PLACES)
                logp, entropy = chosen_log_probs(model, hidden, TOKENS, Sampling(2.0), allowed)
                kl = exact_kl([model, model], [hidden, hidden + 0.1], TOKENS, Sampling())
                return jnp.sum(jnp.sin(logp) + entropy * 0.3 + kl), (logp, entropy, kl)

            return jax.grad(total, has_aux=True)(params)

        return all_of(base)

    plain = found()
    monkeypatch.setattr("agents.tokens.generation._MOST_LOGITS", 10)
    monkeypatch.setattr("agents.tokens.generation._LOGITS_OF_PART", 4 * MODEL.vocabulary)
    for x, y in zip(*map(jax.tree.leaves, (plain, found())), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": -1}, "lora must not be negative, got -1"),
        ({"lora_alpha": 0.0}, "alpha must be positive, got 0"),
        ({"lora_targets": ()}, "lora_targets is empty: choose from q_proj"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        learner("grpo", **changes)
