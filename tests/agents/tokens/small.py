"""Settings that are quick to compile and to run."""

SMALL = {
    "total_steps": 10_000,
    "num_responses": 16,
    "imitation_steps": 3,
    "imitation_responses": 16,
    "imitation_learning_rate": 0.02,
    "layers": 1,
    "width": 16,
    "heads": 2,
    "kv_heads": 1,
    "mlp_width": 16,
}
