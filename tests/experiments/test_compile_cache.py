"""The folder in which compiled programs are kept."""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import pytest

from envs import process
from experiments.run import compile_cache
from experiments.run.compile_cache import keep_programs

NAMES = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def _settings(monkeypatch, tmp_path):
    """JAX as a user has it, and a folder of the user's own; nothing is compiled meanwhile."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jax.config.update(NAMES[0], None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def folder():
    return Path(jax.config.jax_compilation_cache_dir)


def test_it_is_the_users_own_and_nobody_else_can_write_to_it(tmp_path):
    assert keep_programs() is None
    assert folder().parent == tmp_path / "cache/stride/compiled"
    assert folder().stat().st_mode & 0o777 == 0o700
    assert jax.config.jax_persistent_cache_min_compile_time_secs < 1


def test_settings_of_the_user_stay(monkeypatch, tmp_path):
    jax.config.update(NAMES[0], str(tmp_path / "mine"))
    assert keep_programs() is None
    assert folder() == tmp_path / "mine"
    jax.config.update(NAMES[0], None)
    monkeypatch.setenv(process.SWITCH, "1")
    assert keep_programs() is None
    assert keep_programs(wanted=False) is None
    assert jax.config.jax_enable_compilation_cache
    monkeypatch.delenv(process.SWITCH)
    assert keep_programs(wanted=False) is None
    assert not jax.config.jax_enable_compilation_cache
    assert keep_programs() is None  # JAX_ENABLE_COMPILATION_CACHE=false
    assert jax.config.jax_compilation_cache_dir is None
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_used_is_one_line(monkeypatch, tmp_path):
    def refused():
        line = keep_programs()
        assert line.startswith("compiled programs are not kept for the next start: ")
        assert "\n" not in line
        assert jax.config.jax_compilation_cache_dir is None
        return line

    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "Not a directory" in refused()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "open"))
    shared = tmp_path / "open/stride/compiled" / compile_cache.processor()
    shared.mkdir(parents=True)
    shared.chmod(0o777)
    assert "another user can write to it" in refused()
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert "no home" in refused()


def test_damaged_entries_and_the_oldest_go(monkeypatch):
    keep_programs()
    content = zlib.compress(bytes(range(256)) * 40)
    for age, name in enumerate(["new", "older", "oldest"]):
        path = folder() / f"{name}-cache"
        path.write_bytes(content)
        os.utime(path, (1e9 - age, 1e9 - age))
    (folder() / "cut-cache").write_bytes(content[:-3])
    (folder() / "empty-cache").touch()
    jax.config.update(NAMES[0], None)
    monkeypatch.setattr(compile_cache, "MOST_BYTES", 2 * len(content))
    monkeypatch.setattr(compile_cache, "_CHECKED", "never-yet")
    keep_programs()
    assert {path.name for path in folder().glob("*-cache")} == {"new-cache", "older-cache"}


@pytest.mark.slow
def test_a_kept_program_gives_the_same_bits(monkeypatch, tmp_path):
    """Compiled, written, read, by two processes at once, and from a checkpoint on: one and the same run."""
    sizes = "--layers 1 --width 16 --heads 2 --kv-heads 2 --mlp-width 16 --num-responses 64"
    words = [sys.executable, "-m", "experiments.tokens", "--task", "sort-3", *sizes.split()]
    words += ["--total-steps", str(64 * 4 * 6)]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}

    def started(name, *flags):
        return subprocess.Popen(
            [*words, "--out", str(tmp_path / name), *flags], env=environment, stderr=subprocess.PIPE
        )

    def rows(name):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(x).items() if k != "wall_clock_s"} for x in lines]

    together = [started("first"), started("second")]
    assert [run.communicate(timeout=300)[1] for run in together] == [b"", b""]
    entries = list((tmp_path / "cache").rglob("*-cache"))
    assert len(entries) >= 3
    for name, flags in (("third", ()), ("without", ("--no-compile-cache",))):
        assert started(name, *flags).communicate(timeout=300)[1] == b""
    assert {*entries} <= {*(tmp_path / "cache").rglob("*-cache")}
    assert rows("first") == rows("second") == rows("third") == rows("without")
    # Back to the beginning, with programs from the folder.
    for step in (tmp_path / "without/checkpoints").iterdir():
        if step.name != "0":
            (step / "SHA256SUMS").unlink()
    resumed = [*words[:3], "--resume", str(tmp_path / "without")]
    subprocess.run(resumed, env=environment, check=True, timeout=300, capture_output=True)
    assert rows("first") == rows("without")
