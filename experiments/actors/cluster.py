"""Actors as Ray's, on this machine or in a cluster: https://docs.ray.io/en/latest/ray-core/actors.html

Ray comes with the extra `stride-rl[ray]`. Without an address it is started here, for this run alone, listens on
loopback only, keeps its files in a temporary folder, and goes with the run: at its end, at Ctrl-C, SIGTERM, and, by a
guardian, when the process is killed. Each actor is a fresh process with one core and one thread.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pickle
import signal
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from envs.cores import usable_cores
from experiments.actors import guardian
from experiments.actors.existing import use_token
from experiments.actors.fleet import Call, FleetError, LostError
from experiments.actors.variables import variables
from experiments.actors.worker import Rollout, Share, Version, Worker

OBJECT_STORE_BYTES = 512 * 2**20  # shared memory for rollouts and parameters
_READY_SECONDS = 300.0  # until all actors have built their environments
_ENVIRONMENTS_SECONDS = 60.0  # until idle actors have handed their environments over
_END_SECONDS = 15.0  # until the guardian has removed what is left
_PINGS = 20
_FOLDER = "stride-ray-"  # and the process's number
_TITLE = f"ray::{Worker.__name__}"  # which Ray gives the processes of actors


def require_ray() -> None:
    """Raises ValueError, in one line, without Ray."""
    if importlib.util.find_spec("ray") is None:
        raise ValueError("--actors needs Ray: pip install 'stride-rl[ray]'")


def require_picklable(build: Callable[[], Any]) -> bytes:
    """Returns what makes the learner, in bytes. Raises ValueError, in one line, where it cannot be sent."""
    import ray.cloudpickle

    try:
        return ray.cloudpickle.dumps(build)
    except (TypeError, pickle.PicklingError, AttributeError, ValueError) as error:
        raise ValueError(
            f"this environment cannot be sent to actors ({str(error).splitlines()[0]}): its options must be plain "
            "values, and itself come from a name or a file"
        ) from None


class RayFleet:
    """See `Fleet`. Raises FleetError and ValueError, in one line, where actors cannot be had."""

    def __init__(self, shares: Sequence[Share], address: str | None = None):
        if address is None:
            # Read at Ray's import: its servers listen on loopback alone, as on systems where it makes no clusters.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        else:
            use_token()
        require_picklable(shares[0].build)
        self.actors = len(shares)
        self._folder: Path | None = None
        self._guardian: subprocess.Popen | None = None
        self._closed = False
        self._pids: list[int] = []
        try:
            self._start(address)
            self._workers = [self._worker(share, address) for share in shares]
            self._await()
        except BaseException:
            self.close()
            raise

    def _start(self, address: str | None) -> None:
        import ray
        import ray.exceptions

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Ray's workers are nice to others, and on a busy machine would hardly run beside the learner.
        os.environ.setdefault("RAY_worker_niceness", "0")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        with _as_interrupt(), warnings.catch_warnings():
            # JAX warns of forks; here another program takes over at once.
            warnings.simplefilter("ignore", RuntimeWarning)
            if address is not None:
                refusals = (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError)
                try:
                    ray.init(address=address, **quiet)
                except refusals as error:
                    line = str(error).splitlines()[0]
                    raise ValueError(f"--address {address} cannot be joined: {line}") from None
                return
            # Sockets lie in it, whose paths may have a hundred characters.
            remove_abandoned()
            prefix = f"{_FOLDER}{os.getpid()}-"
            self._folder = Path(tempfile.mkdtemp(prefix=prefix, dir=_short_folder()))
            self._guardian = guardian.begin(self._folder)
            ray.init(
                num_cpus=self.actors,
                num_gpus=0,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(self._folder),
                _node_ip_address="127.0.0.1",
                **quiet,
            )

    def _worker(self, share: Share, address: str | None) -> Any:
        import ray

        remote = ray.remote(
            num_cpus=1,
            max_restarts=-1,
            max_task_retries=0,
            runtime_env={"env_vars": variables(local=address is None)},
        )(Worker)
        return remote.remote(share)

    def _await(self) -> None:
        """Waits until all actors have built what they act in."""
        import ray
        import ray.exceptions

        with _as_interrupt():
            try:
                calls = [w.ping.remote() for w in self._workers]
                self._pids = ray.get(calls, timeout=_READY_SECONDS)
            except ray.exceptions.GetTimeoutError:
                raise FleetError(
                    f"actors are not ready after {_READY_SECONDS:.0f} s: has the cluster {self.actors} free cores?"
                ) from None
            except ray.exceptions.RayActorError as error:
                raise FleetError(f"an actor cannot begin: {_last_line(error)}") from None

    def latency(self) -> float:
        """Returns the seconds that a call which does nothing takes, there and back: the median of some."""
        import ray

        seconds = []
        for _ in range(_PINGS):
            began = time.perf_counter()
            ray.get(self._workers[0].ping.remote())
            seconds.append(time.perf_counter() - began)
        return sorted(seconds)[_PINGS // 2]

    def pids(self) -> list[int]:
        """Returns the actors' process ids."""
        import ray

        return ray.get([w.ping.remote() for w in self._workers])

    def send(self, version: Version) -> Any:
        """See `Fleet.send`."""
        import ray

        return ray.put(version)

    def object_bytes(self, reference: Any) -> int | None:
        """Returns the bytes that Ray's object store says that an object takes; None where it does not know."""
        import ray
        import ray.experimental

        return ray.experimental.get_object_locations([reference])[reference].get("object_size")

    def ask(self, worker: int, version: Any, number: int) -> Call:
        """See `Fleet.ask`."""
        handle = self._workers[worker].rollout.remote(version, number)
        return Call(worker, number, time.monotonic(), handle)

    def wait(self, calls: Sequence[Call], timeout: float) -> list[Call]:
        """See `Fleet.wait`."""
        import ray

        by_handle = {call.handle: call for call in calls}
        done, _ = ray.wait(list(by_handle), num_returns=1, timeout=timeout)
        if done and len(by_handle) > 1:
            rest = [handle for handle in by_handle if handle not in done]
            more, _ = ray.wait(rest, num_returns=len(rest), timeout=0)
            done += more
        return [by_handle[handle] for handle in done]

    def fetch(self, call: Call) -> Rollout:
        """See `Fleet.fetch`."""
        import ray
        import ray.exceptions

        try:
            rollout = ray.get(call.handle)
        # A killed actor's reference raises ActorUnavailableError, which is one of these.
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
            raise LostError(str(error).splitlines()[0]) from None
        except ray.exceptions.RayTaskError as error:
            raise (error.cause or FleetError(_last_line(error))) from None
        self._pids[call.worker] = rollout.pid
        return rollout

    def end(self, worker: int) -> None:
        """See `Fleet.end`."""
        import ray

        if self._folder is None:
            ray.kill(self._workers[worker], no_restart=False)
            return
        # On this machine: Ray asks a process to end itself, and one that is stopped does not hear it. One that was
        # started again may hang before its id is known: it is the one that is no other actor's.
        others = {pid for i, pid in enumerate(self._pids) if i != worker}
        for pid in guardian.processes_of(self._folder, _TITLE) or [self._pids[worker]]:
            if pid not in others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def begin(self, worker: int, environments: Any) -> None:
        """See `Fleet.begin`."""
        import ray

        ray.get(self._workers[worker].begin.remote(environments))

    def environments(self) -> list[Any]:
        """See `Fleet.environments`."""
        import ray
        import ray.exceptions

        try:
            calls = [w.environments.remote() for w in self._workers]
            return ray.get(calls, timeout=_ENVIRONMENTS_SECONDS)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
            raise LostError(str(error).splitlines()[0]) from None

    def close(self) -> None:
        """See `Fleet.close`. A Ray that was started for this run ends with it, and its files go."""
        if self._closed:
            return
        self._closed = True
        import ray

        with contextlib.suppress(Exception):
            if self._folder is None:
                for worker in getattr(self, "_workers", ()):
                    ray.kill(worker)
            ray.shutdown()
        if self._guardian is not None and self._guardian.stdin is not None:
            self._guardian.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._guardian.wait(_END_SECONDS)


def folders_of(pid: int | None = None) -> list[Path]:
    """Returns the temporary folders of the Ray that a process has started; None: of all processes."""
    parent = Path(_short_folder() or tempfile.gettempdir())
    return sorted(parent.glob(f"{_FOLDER}{'*' if pid is None else pid}-*"))


def remove_abandoned() -> None:
    """Removes the temporary folders, and ends the processes, of runs that were killed together with their guardian."""
    for folder in folders_of():
        pid = folder.name.removeprefix(_FOLDER).partition("-")[0]
        if not pid.isdigit() or folder.stat().st_uid != os.getuid():
            continue
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            guardian.remove(folder)
        except OSError:
            continue


def require_cores(actors: int) -> None:
    """Raises ValueError, in one line, for more actors than this machine has cores."""
    cores = usable_cores()
    if actors > cores:
        raise ValueError(
            f"--actors {actors} are more than the {cores} cores here: lower it, or join a cluster with --address"
        )


def cores_of(index: int) -> tuple[int, ...]:
    """Returns the core that an actor on this machine is bound to; () where the system has no such thing."""
    if not hasattr(os, "sched_getaffinity"):
        return ()
    cores = sorted(os.sched_getaffinity(0))
    return (cores[index % len(cores)],)


@contextlib.contextmanager
def _as_interrupt() -> Iterator[None]:
    """Turns SIGTERM into KeyboardInterrupt within, so that what was begun is ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _short_folder() -> str | None:
    """Returns a folder for temporary files with a short path; None: the usual one."""
    return "/tmp" if os.access("/tmp", os.W_OK) else None


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
