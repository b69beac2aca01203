"""Maps the top-level folders under one import name; all metadata lives in pyproject.toml.

``kernels``, ``trainer`` and ``bench`` are installed as ``fpl_fast.kernels`` and so on, because a top-level
``kernels`` would shadow a well-known package of that name (docs/adr/0001-layout.md).
"""

from setuptools import find_packages, setup

FOLDERS = {
    "fpl_fast": "fpl_fast",
    "fpl_fast.kernels": "kernels",
    "fpl_fast.trainer": "trainer",
    "fpl_fast.bench": "bench",
}

LINKED = ("kernels*", "trainer*", "bench*")  # links below fpl_fast, for editors: found where they lie

setup(
    package_dir=FOLDERS,
    packages=[
        package
        for name, folder in FOLDERS.items()
        for package in [name, *(f"{name}.{child}" for child in find_packages(folder, exclude=LINKED))]
    ],
)
