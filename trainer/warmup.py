"""Compilation of what a run will compile, before it begins.

The run's own code makes the calls: one step on random images and one prediction. In place of a launch, a kernel is
compiled in a thread (most of that time is LLVM's and ptxas's) and its results are zeros, which every method goes on
from: nothing in a step waits for the device. So signature, specialisation and options are the launch's own, and Triton
finds the result in its cache when the run asks for it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fpl_fast.engines import choice, packages
from fpl_fast.trainer.build import count_devices
from fpl_fast.trainer.config import RunConfig
from fpl_fast.trainer.dry_run import PreparedRun, prepare_run, require_fit, take_steps
from fpl_fast.trainer.evaluation.protocol import named_protocol, predict_classes
from fpl_fast.trainer.random_batches import random_batches

__all__ = ["RESULTS", "Compiled", "WarmUp", "compiling_ahead", "warm_up"]

Progress = Callable[[int, int], None]  # compilations done, and asked for so far

# Parameters of the kernels that they write to.
RESULTS = (
    *("reciprocal_ptr", "loss_ptr", "factor_ptr", "statistics_ptr", "sums_ptr", "map_ptr", "grad", "buffer_ptr"),
    *("label_ptr", "confidence_ptr", "entropy_ptr", "positives_ptr", "chosen_ptr", "classes_ptr", "counts_ptr"),
)


class Compiled(NamedTuple):
    """A compilation."""

    name: str  # of the kernel or of the computation
    was_there: bool  # whether it came from the cache
    seconds: float
    file: Path | None = None  # of a graph; where Triton keeps a kernel, TRITON_CACHE_DIR says


class WarmUp(NamedTuple):
    """Result of a warm-up."""

    device: str
    compiled: list[Compiled]


def warm_up(config: RunConfig, jobs: int, progress: Progress) -> WarmUp:
    """Compile what the steps and the predictions of a run will launch on this machine, into the caches it will read.

    Args:
        config: The run; its data need not exist, and its initial weights are not read.
        jobs: Compilations at once.
        progress: Called whenever one is asked for or done, from any thread.

    Raises:
        ValueError: The configuration breaks a rule, the run does not fit into the memory of this machine, or what it
            would compile cannot be compiled here.
        ChildProcessError: A signal ended a compilation.
    """
    try:
        return _warm_up(config, jobs, progress)
    except packages.UnavailableError as error:
        raise ValueError(
            f"the run's losses cannot be compiled here: {error}; mend that (CXX names another C++ compiler), or train "
            "with --method.engine eager, which compiles nothing"
        ) from None


def _warm_up(config: RunConfig, jobs: int, progress: Progress) -> WarmUp:
    with compiling_ahead(jobs, progress) as compiled:
        prepared = prepare_run(config, alone=True)
        require_fit(prepared)
        num_processes = prod(count_devices(config.train))
        batches = random_batches(config, prepared.method, prepared.fabric, 1, num_processes=num_processes)
        for _ in take_steps(config, prepared, batches):
            pass
        _predict(config, prepared)
    return WarmUp(prepared.device, compiled)


def _predict(config: RunConfig, prepared: PreparedRun) -> None:
    """Predict an image of the size of a window."""
    network, fabric = prepared.method.eval_network.eval(), prepared.fabric
    image = torch.randn(1, 3, *config.eval.window, device=fabric.device)
    protocol = named_protocol(config.eval.protocol, config.eval.window)
    with torch.inference_mode(), torch.compiler.set_stance("force_eager"), fabric.autocast():
        predict_classes(network, protocol.part(image), protocol)


@contextmanager
def compiling_ahead(jobs: int, progress: Progress) -> Iterator[list[Compiled]]:
    """Compile the losses' kernels and graphs in threads in place of running them; yields the list of what is compiled.

    It is complete at the end of the context, which waits for all. A kernel leaves zeros; a graph, on a CPU, is
    evaluated operation by operation.

    Raises:
        UnavailableError: An engine "auto" would compile a graph, but nothing can be compiled here.
    """
    compiled: list[Compiled] = []
    with _Pool(jobs, progress) as pool, ExitStack() as stack:
        stack.enter_context(_replaced(choice, "_warn_once", _refuse))
        stack.enter_context(_graphs_ahead(pool, compiled))
        if choice.has_triton():
            stack.enter_context(_kernels_ahead(pool, compiled))
        try:
            yield compiled
        except BaseException:
            pool.drop()
            raise


def _refuse(reason: str) -> None:
    """Refuse to go on in the eager engine, as a run would: a job that waits for the warm-up would not notice."""
    raise packages.UnavailableError(reason)


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


class _Pool(ThreadPoolExecutor):
    """Threads that tell how much they have been asked and have done; all of it is waited for, and its errors raised."""

    def __init__(self, jobs: int, progress: Progress) -> None:
        super().__init__(jobs)
        self.progress, self.lock = progress, threading.Lock()
        self.asked: list[Future[Any]] = []

    def submit(self, call: Callable[..., Any], /, *args: Any, **keywords: Any) -> Future[Any]:
        """Submit a call."""
        future = super().submit(call, *args, **keywords)
        self.asked.append(future)
        self._tell()
        future.add_done_callback(self._tell)
        return future

    def _tell(self, _: object = None) -> None:
        with self.lock:
            self.progress(sum(future.done() for future in self.asked), len(self.asked))

    def drop(self) -> None:
        """Forget what has not begun."""
        self.shutdown(wait=False, cancel_futures=True)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if error[0] is None:
            for future in self.asked:
                future.result()


@contextmanager
def _graphs_ahead(pool: _Pool, compiled: list[Compiled]) -> Iterator[None]:
    """Compile the graphs of the engine "compiled", each in a process of its own."""
    known = set()

    def compile_one(specialisation: packages.Specialisation) -> None:
        begin = time.perf_counter()
        package = packages.prepare(specialisation)
        took = time.perf_counter() - begin
        compiled.append(Compiled(specialisation.purpose, package.was_there, took, package.file))

    def load(specialisation: packages.Specialisation) -> packages.Graph:
        if specialisation not in known:
            known.add(specialisation)
            pool.submit(compile_one, specialisation)
        return specialisation.evaluate

    with _replaced(packages, "load", load):
        yield


@contextmanager
def _kernels_ahead(pool: _Pool, compiled: list[Compiled]) -> Iterator[None]:
    """Compile the kernels of this package in place of launching them."""
    import triton
    from triton import knobs

    launch = triton.JITFunction.run
    known = set()

    def listen(*, src: Any, metadata: dict[str, Any], times: Any, cache_hit: bool, **_: Any) -> None:
        if metadata["hash"] not in known:
            known.add(metadata["hash"])
            compiled.append(Compiled(src.name, cache_hit, times.total / 1e6))

    def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **keywords: Any) -> Any:
        if not kernel.fn.__module__.startswith("fpl_fast.kernels."):
            return launch(kernel, *args, grid=grid, warmup=warmup, **keywords)
        launch(kernel, *args, grid=grid, warmup=True, **keywords)
        for name in RESULTS:
            result = keywords.get(name)
            result = result[0] if isinstance(result, tuple) else result
            if result is not None:
                result.zero_()
        return None  # what launchers keep to repeat a launch by

    with (
        _replaced(triton.JITFunction, "run", compile_only),
        _replaced(knobs.compilation, "listener", listen),
        triton.AsyncCompileMode(pool, ignore_errors=True),  # the pool raises them
    ):
        yield
