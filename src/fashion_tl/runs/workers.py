"""Several processes that share work: they are started, hear of each other, and end together."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Protocol

from fashion_tl.errors import UserError

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

PATIENCE = 5  # seconds in which a worker ends when it is told to
RESTARTS = 3  # of workers that are killed, such as by a system that is out of memory


class Channel(Protocol):
    """How a worker hears of the others."""

    def tell(self, news: Any) -> None:  # noqa: ANN401 - whatever can be pickled
        """Tell what this worker has done."""

    def heard(self) -> list[Any]:
        """Return what others have told since it was last asked."""


Work = Callable[[Channel], None]


@dataclass
class _Alone:
    """The channel of a worker that is the process itself."""

    told: Callable[[Any], None]

    def tell(self, news: Any) -> None:  # noqa: ANN401
        self.told(news)

    def heard(self) -> list[Any]:
        return []


@dataclass
class _Piped:
    """The channel of a worker that has been started."""

    connection: Connection

    def tell(self, news: Any) -> None:  # noqa: ANN401
        try:
            self.connection.send(news)
        except OSError as error:  # whoever has started it is gone
            raise SystemExit(1) from error

    def heard(self) -> list[Any]:
        found = []
        with suppress(EOFError, OSError):
            while self.connection.poll():
                found.append(self.connection.recv())
        return found


class _Begun:
    """A worker's first news: from now on it ends when it is told to."""


class _Done:
    """A worker's last news: nothing is left to do."""


@dataclass(frozen=True)
class _Refused:
    """The last news of a worker that has met a mistake of the user."""

    message: str


@dataclass
class _Worker:
    """What is known of a worker.

    Attributes:
        process: Its process.
        connection: This end of its channel.
        begun: Whether it has begun to work; before that it imports.
        done: Whether it has said that nothing is left.
        open: Whether more may come from it.
    """

    process: BaseProcess
    connection: Connection
    begun: bool = False
    done: bool = False
    open: bool = True


def share_work(work: Work, processes: int, told: Callable[[Any], None]) -> None:
    """Do work in one process, this one, or in several that it starts and waits for.

    Each of them is to do what no other does: ``work`` claims its parts (``files.claimed``) and returns when none is
    left. One that is killed is started again, and its part is free.

    Args:
        work: The work; several processes take it by pickle.
        processes: Number of processes. Each has its share of the CPU's cores, and one GPU where there are several.
        told: Is handed in this process what each of them tells.

    Raises:
        UserError: If a worker has met one, or too many were killed.
        RuntimeError: If a worker has failed; it has printed why.
    """
    if processes == 1:
        work(_Alone(told))
        return
    with _terminable():
        _Crew(work, processes, told).run()


class _Crew:
    """The processes that share work."""

    def __init__(self, work: Work, processes: int, told: Callable[[Any], None]) -> None:
        self.work, self.processes, self.told = work, processes, told
        self.workers: dict[int, _Worker] = {}
        self.killed = 0

    def run(self) -> None:
        """Start all, hand on what they tell, and see that they end."""
        try:
            for place in range(self.processes):
                self.start(place)
            while any(worker.open for worker in self.workers.values()):
                self.listen()
        finally:
            self.end()

    def start(self, place: int) -> None:
        """Start a worker, which leaves Ctrl-C to this process."""
        context = _context()
        ours, theirs = context.Pipe()
        with _blocked(), _environment(_share(place, self.processes)):  # where it is spawned it inherits both
            begin = _Begin(dict(os.environ))
            process = context.Process(target=_main, args=(begin, self.work, theirs), name=f"worker {place + 1}")
            process.start()
            theirs.close()
            self.workers[place] = _Worker(process, ours)

    def listen(self) -> None:
        """Wait for news of any worker, and hand them on to the others."""
        places = {worker.connection: place for place, worker in self.workers.items() if worker.open}
        for ready in wait(list(places)):
            place = next(own for connection, own in places.items() if connection is ready)
            worker = self.workers[place]
            try:
                news = worker.connection.recv()
            except (EOFError, OSError):
                self.ended(place)
                continue
            if isinstance(news, _Refused):
                raise UserError(news.message)
            if isinstance(news, _Begun | _Done):
                worker.begun, worker.done = True, isinstance(news, _Done)
                continue
            self.told(news)
            for other in self.workers.values():
                if other is not worker and other.begun and not other.done:
                    with suppress(OSError):  # it has just ended
                        other.connection.send(news)

    def ended(self, place: int) -> None:
        """See why a worker has ended; start one that was killed again."""
        worker = self.workers[place]
        worker.open = False
        worker.process.join()
        if worker.done:
            return
        code = worker.process.exitcode or 0
        if code > 0:
            raise RuntimeError(f"{worker.process.name} has failed; what it has printed says why.")
        self.killed += 1
        by = signal.Signals(-code).name if code else "SIGTERM"
        if self.killed > RESTARTS:
            raise UserError(
                f"{self.killed} workers were killed, the last one by {by}: is there memory for {self.processes} of "
                "them? Give fewer --processes; the same command goes on with what is not done."
            )
        print(f"{worker.process.name} was killed by {by}; another one takes up its run", flush=True)
        self.start(place)

    def end(self) -> None:
        """End all that are left: they are told to, and killed if they do not listen."""
        with _blocked():
            left = [worker for worker in self.workers.values() if worker.process.is_alive()]
            for worker in left:
                worker.process.terminate() if worker.begun else worker.process.kill()
            deadline = time.monotonic() + PATIENCE
            for worker in left:
                worker.process.join(max(0.0, deadline - time.monotonic()))
                if worker.process.is_alive():
                    worker.process.kill()
                    worker.process.join()


def _context() -> ForkServerContext | SpawnContext:
    """Choose how workers are started.

    Importing torch and Lightning takes a process longer than many runs. So workers are forked, where the system can,
    from a server that has imported what a run needs, and has done nothing else: it knows of no GPU and has no threads.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    package = f"{__name__.partition('.')[0]}."
    imported = [name for name in sys.modules if name.startswith(package) and "__main__" not in name]
    context.set_forkserver_preload([*imported, f"{package}runs.fit"])
    return context


@dataclass
class _Begin:
    """What a worker takes over of this process, as it is when the worker is started; a forked one has the server's.

    Attributes:
        environment: Variables of the environment, its share of the machine among them.
        outputs: Where standard output and standard error go, by descriptor.
    """

    environment: dict[str, str]
    outputs: dict[int, int] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        outputs = {}
        if os.name == "posix":
            from multiprocessing.reduction import DupFd

            for descriptor in (1, 2):
                with suppress(OSError):  # a process may have closed them
                    outputs[descriptor] = DupFd(descriptor)
        return {**vars(self), "outputs": outputs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.outputs = {descriptor: output.detach() for descriptor, output in state["outputs"].items()}

    def apply(self) -> None:
        """Take it over."""
        os.environ.clear()
        os.environ.update(self.environment)
        for descriptor, output in self.outputs.items():
            os.dup2(output, descriptor)
            os.close(output)
        torch = sys.modules.get("torch")  # imported later, it reads the environment
        if torch is not None:
            torch.set_num_threads(int(self.environment["OMP_NUM_THREADS"]))


def _main(begin: _Begin, work: Work, connection: Connection) -> None:
    """Work in a process that was started for it."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))  # Ctrl-C stays blocked
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    begin.apply()
    connection.send(_Begun())
    try:
        work(_Piped(connection))
        connection.send(_Done())
    except UserError as error:
        with suppress(OSError):
            connection.send(_Refused(str(error)))


@contextmanager
def _blocked() -> Iterator[None]:
    """Have Ctrl-C and SIGTERM wait: within this they would leave a process behind that nobody knows."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _terminable() -> Iterator[None]:
    """Have SIGTERM end this process as Ctrl-C does, so that it ends its workers first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Change variables of the environment for a while."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _share(place: int, processes: int) -> dict[str, str]:
    """Return the variables that give a worker its share of the machine."""
    import torch  # which a worker that is spawned imports after they are set

    from fashion_tl.process import share_of_threads

    gpu = _gpu(place, os.environ, torch.cuda.device_count() if torch.cuda.is_available() else 0)
    threads = str(share_of_threads(processes))
    return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})}


def _gpu(place: int, environ: Mapping[str, str], count: int) -> str | None:
    """Choose the GPU of a worker, in turn; None where there is no choice."""
    if count < 2:
        return None
    visible = [name.strip() for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (visible or [str(number) for number in range(count)])[place % count]
