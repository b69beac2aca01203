"""Known vulnerabilities and licences of what an installation with the trainer brings along: ``python tests/safety.py``.

For ``make safety``. The packages are those that ``fpl-fast[train]`` requires here, at the versions that are installed.
Vulnerabilities are looked up by pip-audit, on the network: a package that it could not look up counts as a failure.
"""

import argparse
import fnmatch
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from license_expression import ExpressionError, LicenseWithExceptionSymbol, get_spdx_licensing
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

# Permissive ones, and MPL-2.0, which asks something of those alone who change its files.
ACCEPTED = {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "MIT", "MIT-CMU", "MPL-2.0",
            "PSF-2.0", "Zlib"}  # fmt: skip
# Classifiers and free text of packages without a License-Expression; which BSD licence it is, they do not say.
NAMES = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Python Software Foundation License": "PSF-2.0",
}
# Libraries of CUDA that PyTorch requires on Linux; pip gets them from NVIDIA, nothing of them is passed on by us.
# cuda-toolkit has no file of its own, it names the versions of the others.
EXCEPTIONS = {
    "nvidia-*": {
        "LicenseRef-NVIDIA-Proprietary",
        "Other/Proprietary License",
        "NVIDIA Proprietary Software",
        "Apache-2.0",
    },
    "cuda-toolkit": {"unknown"},
}
_SPDX = get_spdx_licensing()


class Package(NamedTuple):
    """An installed package and the licence that its metadata state, "unknown" without one."""

    name: str
    version: str
    licence: str


def runtime_packages(project: str = "fpl-fast", extra: str = "train") -> list[Package]:
    """Everything that a project requires with an extra, on this machine, by name; not the project itself.

    Raises:
        ValueError: If one of them is not installed.
    """
    found: dict[str, Package] = {}
    seen, waiting = set(), [Requirement(f"{project}[{extra}]")]
    while waiting:
        required = waiting.pop()
        name, extras = canonicalize_name(required.name), frozenset(required.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise ValueError(f"{name} is required and must be installed; make install does it") from None
        found[name] = Package(name, package.version, licence_of(package.metadata))
        waiting += [x for x in map(Requirement, package.requires or []) if _applies(x, extras)]
    del found[canonicalize_name(project)]
    return [found[name] for name in sorted(found)]


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def licence_of(stated: "metadata.PackageMetadata") -> str:
    """The licence that metadata state: their expression, their classifiers, or the one line of their free text."""
    if expression := stated.get("License-Expression"):
        return expression
    classifiers = [x.rpartition(" :: ")[2] for x in stated.get_all("Classifier") or [] if x.startswith("License :: ")]
    classifiers = [x for x in classifiers if x != "OSI Approved"]
    if classifiers:
        return " AND ".join(NAMES.get(x, x) for x in classifiers)
    text = (stated.get("License") or "").strip()
    return NAMES.get(text, text) if text and "\n" not in text else "unknown"


def is_accepted(package: Package) -> bool:
    """Whether the licence, or enough of a choice of licences, is on the list, or is an exception for this package."""
    if any(fnmatch.fnmatch(package.name, name) and package.licence in of for name, of in EXCEPTIONS.items()):
        return True
    try:
        return _is_accepted(_SPDX.parse(package.licence, validate=True))
    except ExpressionError:  # no licence that SPDX lists
        return False


def _is_accepted(expression: object) -> bool:
    if isinstance(expression, _SPDX.AND):
        return all(map(_is_accepted, expression.args))
    if isinstance(expression, _SPDX.OR):
        return any(map(_is_accepted, expression.args))
    if isinstance(expression, LicenseWithExceptionSymbol):  # an exception only permits more
        return _is_accepted(expression.license_symbol)
    return getattr(expression, "key", None) in ACCEPTED


def refused_licences(packages: list[Package]) -> list[str]:
    """A line for each package whose licence is not on the list."""
    return [
        f"{package.name} {package.version}: its licence must be one of {', '.join(sorted(ACCEPTED))}, got "
        f"{package.licence!r}; leave the package out, or add the licence to tests/safety.py"
        for package in packages
        if not is_accepted(package)
    ]


def vulnerabilities(packages: list[Package]) -> list[str]:
    """A line for each known vulnerability, and one for all packages that could not be looked up."""
    # Builds such as 2.11.0+cu130 are listed by their public version.
    pins = "".join(f"{package.name}=={Version(package.version).public}\n" for package in packages)
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(pins)
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(requirements), "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--progress-spinner", "off"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return list(findings(done.stdout, done.stderr, packages))


def findings(report: str, said: str, packages: list[Package]) -> Iterator[str]:
    """Lines of pip-audit's report in JSON, which names a package that it did not look up and ends with 0 all the same.

    Args:
        report: Its standard output.
        said: Its standard error, for the reason where there is no report.
        packages: What it was asked for.
    """
    try:
        audited = {canonicalize_name(x["name"]): x for x in json.loads(report)["dependencies"]}
    except (ValueError, KeyError):
        audited = {}
    for package in packages:
        for found in audited.get(package.name, {}).get("vulns", ()):
            fixed = ", ".join(found["fix_versions"]) or "none yet"
            yield f"{package.name} {package.version}: {found['id']}, mended in {fixed}; require a version without it"
    missed = [x for x in packages if "vulns" not in audited.get(x.name, {})]
    if missed:
        reason = audited.get(missed[0].name, {}).get("skip_reason") or (said.strip().splitlines() or ["no report"])[-1]
        yield (
            f"the vulnerabilities of {len(missed)} of {len(packages)} packages are not known: pip-audit must reach its "
            f"service and find each of them, got {' '.join(reason.split())[:300]!r} for {missed[0].name}; run it again "
            "where there is a network"
        )


def main() -> int:
    """Check both, print what was found."""
    argparse.ArgumentParser(description="Known vulnerabilities and licences of the runtime dependencies.").parse_args()
    packages = runtime_packages()
    licences = refused_licences(packages)
    print(f"licences: {len(packages) - len(licences)} of {len(packages)} packages accepted", *licences, sep="\n  ")
    found = vulnerabilities(packages)
    print(f"vulnerabilities: {len(found) or 'none known'}", *found, sep="\n  ", flush=True)
    return int(bool(licences or found))


if __name__ == "__main__":
    sys.exit(main())
