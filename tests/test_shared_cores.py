import re

import torch

from fpl_fast.bench.shared_cores import main


def test_a_table_of_each_case_beside_busy_processes(capsys):
    before = torch.get_num_threads()
    arguments = ["--side", "32", "--rounds", "2", "--peers", "eager", "--threads", "1", "2", "--busy", "0", "1"]
    assert main(arguments) == 0
    assert torch.get_num_threads() == before
    full, upsampled = capsys.readouterr().out.strip().split("\n\n")
    assert full.startswith("2x19x32x32-float32") and upsampled.startswith("2x19x8x8-to-32x32-float32")
    for table in (full, upsampled):
        assert re.search(r"peak memory, MB: argmax_cross_entropy \d+, eager \d+$", table.splitlines()[0])
        rows = [re.findall(r"[^| ]+", line) for line in table.splitlines()[3:]]
        expected = [
            [busy, threads, peer] for busy in "01" for threads in "12" for peer in ("argmax_cross_entropy", "eager")
        ]
        assert [row[:3] for row in rows] == expected
        assert all(0 < float(median) <= float(slowest) for _, _, _, median, slowest, *_ in rows)
        assert all(float(row[5]) == 1 for row in rows if row[2] == "argmax_cross_entropy")
