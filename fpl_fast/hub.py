"""The losses as a package for the Hugging Face Kernel Hub: ``python -m fpl_fast.hub FOLDER``.

A kernel of the Hub is loaded from any folder, under a name of its own, beside other versions of itself: its imports are
relative, and its operators lie in a namespace that belongs to its content.

    FOLDER/build.toml               what ``kernel-builder`` reads,
    FOLDER/torch-ext/fpl_fast/      the sources that it builds from, and
    FOLDER/build/torch-<backend>/   what the library ``kernels`` loads: the same for every backend but for the names.
"""

import argparse
import base64
import hashlib
import importlib
import json
import re
import sys
from pathlib import Path

import fpl_fast

__all__ = ["BACKENDS", "main", "write_hub_package"]

BACKENDS = ("cpu", "cuda", "rocm")
"""Backends of the Hub that have a build; "cuda" and "rocm" are those of PyTorch, with or without a device."""

_NAME = "fpl-fast"
_LICENSE = "apache-2.0"  # an identifier of the Hub
_PARTS = ("", "engines", "kernels", "kernels.device", "ops")
_LEFT_OUT = ("environment.py", "hub.py")  # no loss needs them

_OURS = re.compile(r"^(\s*)from fpl_fast(?:\.([\w.]+))? import ", flags=re.M)
_OPERATOR = re.compile(r'custom_op\("fpl_fast::(\w+)"')

_OPS = '''"""Namespace of the operators: that of this build alone, so that several versions can be loaded."""

import torch

ops = torch.ops.{namespace}


def add_op_namespace_prefix(name: str) -> str:
    """Prefix the name of an operator by the namespace."""
    return f"{namespace}::{{name}}"
'''


def write_hub_package(folder: Path | str) -> Path:
    """Write the losses as a package for the Kernel Hub.

    Args:
        folder: To create; it may exist, if it is empty.

    Returns:
        The folder.

    Raises:
        ValueError: If there is something in the folder.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"the folder must be new or empty, got {folder}: name another one")
    sources = _sources()
    version = int(fpl_fast.__version__.partition(".")[0])  # 0 is the Hub's for what is not stable yet
    _write(folder / "torch-ext" / fpl_fast.__name__, sources)
    content = hashlib.sha256("\0".join(f"{name}\0{text}" for name, text in sources.items()).encode()).hexdigest()[:10]
    for backend in BACKENDS:
        namespace = f"_{fpl_fast.__name__}_{backend}_{content}"
        files = sources | {"_ops.py": _OPS.format(namespace=namespace)}
        metadata = {
            "name": _NAME,
            "id": namespace,
            "version": version,
            "license": _LICENSE,
            "python-depends": [],
            "backend": {"type": backend},
            "digest": {"algorithm": "sha256", "files": {name: _digest(text) for name, text in sorted(files.items())}},
        }
        _write(folder / "build" / f"torch-{backend}", files | {"metadata.json": json.dumps(metadata, indent=2) + "\n"})
    _write(folder, {"build.toml": _build_toml(version)})
    return folder


def _sources() -> dict[str, str]:
    """Text of every module that is exported, by its path below the package, with relative imports."""
    sources = {}
    for part in _PARTS:
        package = importlib.import_module(f"{fpl_fast.__name__}.{part}".rstrip("."))
        for path in sorted(Path(package.__path__[0]).glob("*.py")):
            if path.name not in _LEFT_OUT:
                folder = part.replace(".", "/")
                sources[f"{folder}/{path.name}".lstrip("/")] = _relative(path.read_text(encoding="utf-8"), part)
    return sources


def _relative(text: str, part: str) -> str:
    """The text of a module of this part of the package, importing the others and naming operators as the Hub wants."""
    if _OPERATOR.search(text):
        text = _OPERATOR.sub(r'custom_op(add_op_namespace_prefix("\1")', text)
        text = text.replace("\nfrom fpl_fast", "\nfrom fpl_fast._ops import add_op_namespace_prefix\nfrom fpl_fast", 1)
    dots = "." * (1 + len(list(filter(None, part.split(".")))))
    return _OURS.sub(lambda match: f"{match[1]}from {dots}{match[2] or ''} import ", text)


def _build_toml(version: int) -> str:
    backends = ", ".join(f'"{backend}"' for backend in BACKENDS)
    return (
        f'[general]\nname = "{_NAME}"\nversion = {version}\nedition = 5\nlicense = "{_LICENSE}"\n'
        f"backends = [{backends}]\n\n[torch-noarch]\n"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())  # the bytes of the digest, on every system


def main(arguments: list[str] | None = None) -> int:
    """Write the package into the folder of the command line, and say how it is loaded."""
    parser = argparse.ArgumentParser(description="Write the losses as a package for the Hugging Face Kernel Hub.")
    parser.add_argument("folder", type=Path, help="new or empty")
    try:
        folder = write_hub_package(parser.parse_args(arguments).folder)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    sys.stdout.write(f"{folder}: kernels.get_local_kernel(Path({str(folder)!r})) loads it\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
