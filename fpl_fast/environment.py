"""Description of the environment that a result was obtained in: device, versions, commit."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

__all__ = ["describe_environment"]


def describe_environment() -> dict[str, str]:
    """Describe the machine and the software as labelled strings, for run folders and benchmark results.

    Returns:
        ``device``, ``cpu``, ``threads``, ``system``, ``python``, ``torch``, and where they are known ``cuda``,
        ``triton``, ``fpl_fast`` and ``commit`` (short hash of the checkout, ``-dirty`` with uncommitted changes).

    Example:
        >>> describe_environment()["torch"] == torch.__version__
        True
    """
    described = {
        "device": _gpu_name() or "CPU",
        "cpu": _cpu_name(),
        "threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": (torch.version.cuda or torch.version.hip or "") if torch.cuda.is_available() else "",
        "triton": _version("triton"),
        "fpl_fast": _version("fpl-fast"),
        "commit": _commit(),
    }
    return {name: value for name, value in described.items() if value}


def _gpu_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({os.cpu_count()} logical cores)"
    return f"{platform.processor() or platform.machine()} ({os.cpu_count()} logical cores)"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    """Commit of the checkout this file lies in; empty when installed from a wheel or without git."""
    folder = Path(__file__).resolve().parent
    if not (folder.parent / ".git").exists():
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
