"""Compiled graphs as files: built once on a machine, loaded by every later process.

A graph is built ahead of time (AOTInductor) into one package of machine code. Loading it takes a tenth of a second;
tracing the graph again to find Inductor's own cache would take half a minute. It is built in a process of its own, so
that the modes, settings and devices of this process do not enter it, no output of a compiler reaches the user's
console, and Inductor's intermediate files, broken ones included, vanish with the process. A package is moved into its
place whole.
"""

import functools
import hashlib
import logging
import os
import pickle
import platform
import re
import shlex
import shutil
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fpl_fast.engines import process

Graph = Callable[[Sequence[Tensor]], list[Tensor]]

_LOGGER = logging.getLogger("fpl_fast")
# The process that compiles takes sys.path and this package as they are here: a script may have made it importable, or
# loaded it from a folder under another name (fpl_fast.hub).
_PACKAGE = __name__.removesuffix(".engines.packages")
_BUILD = """
import importlib.util, pickle, sys
sys.path[:], name, file = pickle.load(sys.stdin.buffer)
spec = importlib.util.spec_from_file_location(name, file)
sys.modules[name] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
importlib.import_module(f"{name}.engines.build").main()
"""
_SOURCES = (
    *("plane_arithmetic.py", "plane_inputs.py", "planes.py", "distance_planes.py", "plane_rows.py"),
    *("context_planes.py", "build.py"),
)
_LOCK = threading.Lock()
_ENVIRONMENT = Path("/proc/self/environ")  # on Linux: as the process began
_IMPORTED_EMPTY = os.environ.get("TORCHINDUCTOR_CACHE_DIR") == ""

# As g++ and clang++ say it of the program behind them.
_KILLED_COMPILER = re.compile(r"error: .*\bKilled\b")

# Of the sizes that stay dynamic in a graph.
MAX_SIZE = 1 << 40


class Specialisation(Protocol):
    """Everything that one graph is compiled for; hashable, and picklable for the process that compiles it."""

    def __hash__(self) -> int:
        """Graphs are kept by specialisation."""
        ...

    @property
    def purpose(self) -> str:
        """Name of the computation in messages."""
        ...

    def evaluate(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Evaluate the graph, as the operations that are to be compiled."""
        ...

    def examples(self) -> list[Tensor]:
        """Inputs of the graph."""
        ...

    def dynamic_shapes(self) -> list[dict[int, Any]]:
        """The dimensions of each input that stay dynamic, as ``torch.export`` names them."""
        ...


class Package(NamedTuple):
    """The package of a graph, on disk and loaded."""

    file: Path
    graph: Graph
    was_there: bool  # whether this process found it; otherwise it has built it


class UnavailableError(RuntimeError):
    """A graph cannot be compiled or loaded here; the message is the reason, in one line."""


def unavailable_reason() -> str | None:
    """Reason why no graph can be compiled on this machine, as far as a quick check tells, or None."""
    if os.name == "nt":
        return "it does not run on Windows"
    if _compiler() is None:
        wanted = os.environ.get("CXX") or "g++ or clang++"
        return f"it needs a C++ compiler ({wanted}) on the PATH"
    return None


def load(specialisation: Specialisation) -> Graph:
    """The graph of a specialisation, from the cache or compiled now.

    Raises:
        UnavailableError: If it can neither be found nor be compiled; known for this process from then on.
        ChildProcessError: If a signal ended its compilation; the next call tries again.
    """
    with _LOCK:  # threads wait for one compilation
        loaded = _load(specialisation)
    if isinstance(loaded, str):
        raise UnavailableError(loaded)
    return loaded.graph


def prepare(specialisation: Specialisation) -> Package:
    """Compile a graph unless it is in the cache; threads may compile several at once.

    Raises:
        UnavailableError: As in :func:`load`.
        ChildProcessError: As in :func:`load`.
    """
    loaded = _load(specialisation)
    if isinstance(loaded, str):
        raise UnavailableError(loaded)
    return loaded


@functools.cache
def _load(specialisation: Specialisation) -> Package | str:
    name, asked = _file_name(specialisation), cache_folder()
    if (graph := _open(asked / name)) is not None:
        return Package(asked / name, graph, was_there=True)
    try:
        folder = _writable(asked)
        if folder != asked:
            if (graph := _open(folder / name)) is not None:
                return Package(folder / name, graph, was_there=True)
            _LOGGER.warning("%s cannot be written to: what is compiled goes to %s", asked, folder)
        _LOGGER.warning(  # which Python shows to those who have set no logging up, too
            "compiling %s for this set of options, once: about a minute (engine='eager' compiles nothing)",
            specialisation.purpose,
        )
        _build(specialisation, folder / name)
    except ChildProcessError:  # says nothing about this machine: a run that goes on must not have another engine
        raise
    except OSError as error:
        return f"its compiled form cannot be written ({error})"
    except UnavailableError as error:
        return str(error)
    if (graph := _open(folder / name)) is None:
        return f"its compiled form cannot be loaded ({folder / name})"
    return Package(folder / name, graph, was_there=False)


def cache_folder() -> Path:
    """Folder of the packages: ``fpl_fast`` in the user's TORCHINDUCTOR_CACHE_DIR, XDG_CACHE_HOME or ``~/.cache``."""
    named = os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")
    inductor = Path(os.path.abspath(named)) if named else None
    if inductor is not None and not _is_by_inductor(inductor):
        return inductor / "fpl_fast"
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "fpl_fast"
    home = Path(os.path.expanduser("~"))
    return home / ".cache" / "fpl_fast" if home.is_absolute() else _private_folder()  # a container may have no home


def _is_by_inductor(folder: Path) -> bool:
    """Whether Inductor itself, once imported, has set the variable to a folder that the user did not ask for."""
    temporary = folder.name.startswith("torchinductor_") and folder.parent == Path(tempfile.gettempdir())
    return temporary or (_began_empty() and folder == Path.cwd())  # as Inductor reads an empty one


def _began_empty() -> bool:
    """Whether TORCHINDUCTOR_CACHE_DIR was empty when the process began, or at least when this module was imported."""
    try:  # Inductor may have been imported first
        began = b"TORCHINDUCTOR_CACHE_DIR=" in _ENVIRONMENT.read_bytes().split(b"\0")
    except OSError:  # not Linux
        began = False
    return began or _IMPORTED_EMPTY


def _writable(folder: Path) -> Path:
    """Create the folder if need be; if it is not writable, take one in the temporary folder, private to the user."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        private = _private_folder()
        private.mkdir(mode=0o700, exist_ok=True)
        status = private.lstat()
        # Its content is executed: nobody else may have put it there.
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o077 or private.is_symlink()):
            raise PermissionError(f"{private} must be a folder of this user alone: chmod 700, or remove it") from None
        return private


def _private_folder() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"fpl_fast-{user}"


def _open(package: Path) -> Graph | None:
    """The graph in a package, or None where there is none or it is damaged."""
    try:
        with zipfile.ZipFile(package) as file:
            if file.testzip() is not None:  # a checksum does not hold: loaded, it might take the process down
                return None
        # The C++ loader itself: torch._inductor.aoti_load_package around it imports all of Inductor and starts a
        # compiler to find out the processor's instruction sets.
        loader = torch._C._aoti.AOTIModelPackageLoader(str(package), "model", False, 1, -1)  # pyright: ignore
    except (OSError, RuntimeError, zipfile.BadZipFile):
        return None
    run: Callable[[list[Tensor]], list[Tensor]] = loader.boxed_run
    return lambda tensors: run(list(tensors))


def _build(specialisation: Specialisation, package: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="fpl_fast-") as scratch:
        built = Path(scratch) / "graph.pt2"
        environment = {
            **os.environ,
            "CXX": shlex.join(_compiler() or ["g++"]),
            "TORCHINDUCTOR_CACHE_DIR": scratch,
            "CUDA_VISIBLE_DEVICES": "",
        }
        given = pickle.dumps((sys.path, _PACKAGE, sys.modules[_PACKAGE].__file__))
        given += pickle.dumps((specialisation, str(built)))
        ended = process.run_python(_BUILD, given, environment, Path(scratch))
        reason = process.last_words(ended)
        if ended.returncode < 0 or _KILLED_COMPILER.search(reason):
            raise ChildProcessError(
                f"compiling {specialisation.purpose} was ended by a signal, from outside or for want of memory: "
                f"{reason}; run it again, or with engine='eager', which compiles nothing"
            )
        if ended.returncode != 0 or not built.exists():
            raise UnavailableError(f"compiling failed: {reason}")
        # Into the same file system first: only there is moving all or nothing.
        with tempfile.NamedTemporaryFile(dir=package.parent, delete=False) as copy:
            copy.write(built.read_bytes())
        os.replace(copy.name, package)


def _compiler() -> list[str] | None:
    """The command of the C++ compiler, which may have a launcher such as ccache before it; None without one."""
    for command in [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]:
        try:
            words = shlex.split(command)
        except ValueError:  # a quotation that is not closed
            continue
        if words and all(shutil.which(word) for word in words if not word.startswith("-")):
            return words
    return None


def _file_name(specialisation: Specialisation) -> str:
    return f"{_key(specialisation)}.pt2"


def _key(specialisation: Specialisation) -> str:
    """Key of the machine code by all that it depends on: sources, PyTorch, compiler, processor and specialisation."""
    folder = Path(__file__).parent
    parts = [
        *((folder / name).read_text() for name in _SOURCES),
        torch.__version__,
        str(torch.version.git_version),
        str(_compiler()),
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
        _instruction_sets(),
        repr(specialisation),  # names the options in their order, which is that of the graph's numbers
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _instruction_sets() -> str:
    """Instruction sets of the processor as Linux lists them; the compiler uses all of them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
