"""The host time of a step: launches that go nowhere, in a process of its own."""

import os
import re
import subprocess
import sys

SHORT = "from fpl_fast.bench import host_time as h; h._CALLS = h._ROUNDS = 2; h.main([])"
LINE = re.compile(r"(.+?) +(\d) launches +([\d.]+) us, +([\d.]+) times the first line")


def test_every_kind_of_step_is_told_with_its_launches_and_time():
    """Forward, finish and scaling; upsampling adds its adjoint, a mask or labels the count of the pixels."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}  # which has no launcher, and is not taken
    result = subprocess.run([sys.executable, "-c", SHORT], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = [LINE.fullmatch(line) for line in result.stdout.splitlines()[1:]]
    assert all(rows) and len(rows) == 7
    assert [int(row[2]) for row in rows] == [0, 3, 3, 4, 4, 5, 4]
    assert all(float(row[3]) > float(rows[0][3]) > 0 for row in rows[1:])
