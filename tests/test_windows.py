import re

from fpl_fast.bench.windows import main


def test_ratios_of_windows_together(capsys):
    assert main(["--backbone", "test_resnet", "--window", "32", "--rounds", "1"]) == 0
    shown = capsys.readouterr().out
    time, memory, differ = map(float, re.findall(r"(?:time|memory|differ) ([\d.]+)", shown))
    assert shown.startswith("eight windows of 32 x 32") and time > 0
    assert 1 < memory < 10
    assert differ < 1
