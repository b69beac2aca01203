"""The command line in a process of its own, with and without the extras."""

import subprocess
import sys

import pytest
from trainer_runs import HANGS

import fpl_fast
from fpl_fast.trainer.cli import main

ALONE = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None  # as if it were not installed
from fpl_fast.trainer.cli import main
code = main({arguments!r})
loaded = {{name for name, module in sys.modules.items() if module}}
print(sorted({{"torch", "rich", "jsonargparse", "numpy", "yaml", "lightning"}} & loaded))
sys.exit(code)
"""


def alone(arguments, blocked=()):
    """A command in a process of its own."""
    program = ALONE.format(blocked=list(blocked), arguments=arguments)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANGS)


def test_a_configuration_is_read_without_networks():
    """They take seconds to import, and so would every command."""
    program = (
        "import sys, fpl_fast.trainer.config.io, fpl_fast.trainer.recipes; "
        "print(sorted({'lightning.fabric', 'timm', 'torchvision', 'torch._inductor'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=HANGS)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"]])
def test_help_and_version_need_nothing(arguments):
    done = alone(arguments, blocked=["rich", "jsonargparse"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "[]"
    if arguments == ["--version"]:
        assert done.stdout.startswith(f"fpl-fast {fpl_fast.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["train", "synthetic/cps"], "jsonargparse"),
        (["recipes"], "rich"),
        (["eval", "run"], "rich"),
        (["bench", "report"], "rich"),
        (["train", "synthetic/cps", "--dry-run"], "timm"),
    ],
)
def test_without_the_extras_one_line_says_what_to_install(arguments, missing):
    done = alone(arguments, blocked=[missing])
    assert done.returncode == 2
    expected = f'fpl-fast {arguments[0]} needs {missing}, which is not installed: pip install "fpl-fast[train]"'
    assert done.stderr == f"error: {expected}\n"


def test_our_own_missing_modules_are_no_missing_extras(monkeypatch):
    monkeypatch.setitem(sys.modules, "fpl_fast.trainer.commands.recipes", None)
    with pytest.raises(ModuleNotFoundError):
        main(["recipes"])
