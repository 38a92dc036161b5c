"""The worker processes in which other people's environments are timed."""

from pathlib import Path

import pytest

from experiments.rivals import Rival


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
