import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import mlir

from envs.callback import host_call

RESULT = {
    "sum": jax.ShapeDtypeStruct((), jnp.float32),
    "twice": jax.ShapeDtypeStruct((3,), jnp.int32),
}


@pytest.fixture(params=["ours", "JAX's"])
def call(request, monkeypatch):
    """(function under test, shapes that the host was called with); also where JAX has withdrawn what ours needs."""
    if request.param == "JAX's":
        monkeypatch.delattr(mlir, "emit_python_callback")
    seen = []

    def host(x, pair):
        seen.append(np.shape(x))
        a, b = map(np.asarray, pair)
        total = np.asarray(x).sum(-1) + a
        return {"sum": total.astype(np.float32), "twice": np.asarray(2 * b, np.int32)}

    return (lambda x, a, b: host_call(host, RESULT, x, (a, b))), seen


X, A, B = jnp.arange(8.0).reshape(2, 4), jnp.array([10.0, 20.0]), jnp.arange(3)


def test_in_and_out_of_jit(call):
    function, seen = call
    for f in (function, jax.jit(function)):
        out = f(X[1], A[0], B)
        assert float(out["sum"]) == 22 + 10
        np.testing.assert_array_equal(out["twice"], [0, 2, 4])
    assert seen == [(4,), (4,)]


def test_a_batch_of_batches_is_one_call(call):
    function, seen = call
    batched = jax.vmap(jax.vmap(function, (0, None, None)), (None, 0, None))
    out = jax.jit(batched)(X, A, B)
    np.testing.assert_array_equal(out["sum"], A[:, None] + X.sum(-1))
    np.testing.assert_array_equal(out["twice"], np.broadcast_to(2 * B, (2, 2, 3)))
    assert seen == [(2, 2, 4)]


def test_any_axis_may_be_mapped_and_steps_follow_one_another(call):
    function, seen = call

    @jax.jit
    def steps(x):
        def body(total, _):
            out = jax.vmap(function, (1, 0, None))(x, total, B)
            return out["sum"], None

        return jax.lax.scan(body, A, length=3)[0]

    np.testing.assert_array_equal(steps(X.T), A + 3 * X.sum(-1))
    assert seen == [(2, 4)] * 3


def test_an_error_on_the_host_names_itself(call):
    def fail(x):
        raise ValueError("the host says no")

    with pytest.raises(Exception, match="the host says no"):
        jax.jit(lambda x: host_call(fail, jax.ShapeDtypeStruct((), jnp.float32), x))(A)
