"""The worker processes in which other people's environments are timed."""

from pathlib import Path

import pytest

from experiments.benchmarks.rivals import Rival, against_rivals


def interpreter(tmp_path: Path, script: str) -> Path:
    """A program in the place of a rival's Python."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_a_talkative_rival_does_not_hang(tmp_path):
    # More than a pipe holds, as the warnings of a thousand environments are.
    script = "head -c 1000000 /dev/zero >&2; echo ready; read seconds; echo 12.5"
    rival = Rival(interpreter(tmp_path, script), "sync", "CartPole-v1", 2)
    assert rival.measure(0.1) == 12.5
    rival.close()


def test_a_rival_that_dies_is_quoted(tmp_path):
    program = interpreter(tmp_path, "echo long story >&2; echo no such task >&2; exit 1")
    with pytest.raises(ValueError, match="envpool on CartPole-v1: no such task"):
        Rival(program, "envpool", "CartPole-v1", 2)


def test_a_task_is_measured_against_those_that_are_there(tmp_path, capsys):
    program = interpreter(
        tmp_path,
        """test "$2" = envpool && { echo "No module named 'envpool'" >&2; exit 1; }
echo ready; while read seconds; do echo 4.0; done""",
    )
    figures = against_rivals("CartPole-v1", program, 1, 0.01, num_envs=2)
    assert figures["CartPole-v1/gymnax"] == 4.0
    assert figures["CartPole-v1/of_gymnax"] == pytest.approx(figures["CartPole-v1/here"] / 4.0)
    assert figures["CartPole-v1/sync"] > 0  # Gymnasium is always there
    assert not [name for name in figures if name.endswith("envpool")]
    assert "left out: envpool on CartPole-v1: No module named 'envpool'" in capsys.readouterr().out
