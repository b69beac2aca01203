"""The check of dependencies: what it lets pass, and what it must not."""

import json
from email.message import Message
from importlib import metadata

import pytest
from safety import Package, findings, is_accepted, licence_of, refused_licences, runtime_packages

PACKAGES = [Package("one", "1.0", "MIT"), Package("two", "2.0", "MIT")]


def stated(**fields):
    """Metadata with these fields, whose names have _ for -."""
    message = Message()
    for name, values in fields.items():
        for value in [values] if isinstance(values, str) else values:
            message[name.replace("_", "-")] = value
    return message


def test_every_runtime_dependency_has_an_accepted_licence():
    packages = runtime_packages()
    assert refused_licences(packages) == []
    names = {package.name for package in packages}
    assert {"torch", "lightning", "timm"} <= names and {"fpl-fast", "pytest"}.isdisjoint(names)
    assert "filelock" in names  # of torch alone: what dependencies require is walked, too


@pytest.mark.parametrize(
    ("fields", "licence", "accepted"),
    [
        ({"License_Expression": "MIT", "License": "GPL-3.0-only"}, "MIT", True),
        ({"License_Expression": "GPL-3.0-only"}, "GPL-3.0-only", False),
        ({"License_Expression": "MIT AND GPL-3.0-only"}, "MIT AND GPL-3.0-only", False),
        ({"License_Expression": "MIT OR GPL-3.0-only"}, "MIT OR GPL-3.0-only", True),
        ({"License_Expression": "Apache-2.0 WITH LLVM-exception"}, "Apache-2.0 WITH LLVM-exception", True),
        ({"License_Expression": "GPL-2.0-only WITH Classpath-exception-2.0"}, None, False),
        ({"Classifier": ["License :: OSI Approved", "License :: OSI Approved :: MIT License"]}, "MIT", True),
        ({"Classifier": "License :: OSI Approved :: GNU General Public License v3 (GPLv3)", "License": "MIT"},
         "GNU General Public License v3 (GPLv3)", False),
        ({"Classifier": ["License :: OSI Approved :: MIT License", "License :: Other/Proprietary License"]}, None,
         False),
        ({"License": "Apache 2.0"}, "Apache-2.0", True),
        ({"License": "As you like it"}, "As you like it", False),
        ({"License": "Copyright of somebody\nall rights reserved"}, "unknown", False),
        ({}, "unknown", False),
    ],
)  # fmt: skip
def test_a_licence_is_read_and_judged(fields, licence, accepted):
    found = licence_of(stated(**fields))
    assert licence is None or found == licence
    assert is_accepted(Package("made-up", "1.0", found)) == accepted


def test_an_installed_package_with_a_bad_licence_is_named(monkeypatch, tmp_path):
    info = tmp_path / "made_up-9.8.dist-info"
    info.mkdir()
    head = "Metadata-Version: 2.4\nName: made-up\nVersion: 9.8\n"
    (info / "METADATA").write_text(f"{head}License-Expression: AGPL-3.0-only\nRequires-Dist: torch; extra == 'x'\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert metadata.version("made-up") == "9.8"
    (tmp_path / "needs-1.dist-info").mkdir()
    needs = "Metadata-Version: 2.4\nName: needs\nVersion: 1\nRequires-Dist: made_up; extra == 'train'\n"
    (tmp_path / "needs-1.dist-info" / "METADATA").write_text(f"{needs}Provides-Extra: train\n")
    packages = runtime_packages("needs")
    assert packages == [Package("made-up", "9.8", "AGPL-3.0-only")]
    (line,) = refused_licences(packages)
    assert line.startswith("made-up 9.8: its licence must be one of ") and "got 'AGPL-3.0-only'" in line
    (info / "METADATA").write_text(f"{head}Requires-Dist: not-there-at-all\n")
    with pytest.raises(ValueError, match="not-there-at-all is required and must be installed"):
        runtime_packages("needs")


def test_exceptions_are_for_their_packages():
    assert is_accepted(Package("nvidia-cublas", "13.1", "LicenseRef-NVIDIA-Proprietary"))
    assert not is_accepted(Package("nvidia-cublas", "13.1", "GPL-3.0-only"))
    assert not is_accepted(Package("other", "13.1", "LicenseRef-NVIDIA-Proprietary"))


def report(*dependencies):
    return json.dumps({"dependencies": list(dependencies), "fixes": []})


def test_a_vulnerability_is_named_and_none_is_nothing():
    one, two = ({"name": name, "version": "1", "vulns": []} for name in ("one", "two"))
    assert list(findings(report(one, two), "", PACKAGES)) == []
    found = {"name": "one", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1", "2.0"]}]}
    (line,) = findings(report(found, two), "", PACKAGES)
    assert line == "one 1.0: PYSEC-1, mended in 1.1, 2.0; require a version without it"


def test_what_could_not_be_looked_up_does_not_pass():
    one = {"name": "one", "version": "1.0", "vulns": []}
    two = {"name": "two", "skip_reason": "could not be audited: two (2.0)"}
    for given, said, missed in [
        (report(one, two), "No known vulnerabilities found", "1 of 2"),
        (report(one), "", "1 of 2"),
        (report(), "", "2 of 2"),
        ("", "Traceback\nConnectionError: no\nnetwork", "2 of 2"),
    ]:
        (line,) = findings(given, said, PACKAGES)
        assert missed in line and "\n" not in line
    assert "could not be audited: two (2.0)" in next(findings(report(one, two), "", PACKAGES))
