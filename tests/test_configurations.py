"""Launch configurations that the benchmark times: they change nothing but the time."""

from dataclasses import replace

import pytest
import torch
from tolerances import GRADIENT, LOSS

from fpl_fast.bench.cases import make_inputs
from fpl_fast.bench.configurations import PROBLEMS, describe, main, step
from fpl_fast.bench.trace import Launches
from fpl_fast.kernels.configs import MAX_SINGLES, Config


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.title)
def test_results_do_not_depend_on_the_configuration(problem, kernel_device):
    num_classes = problem.case.num_classes
    small = replace(problem.case, shape=(1, num_classes, *((9, 15) if num_classes <= 32 else (3, 11))))
    inputs = make_inputs(small, kernel_device)
    (loss, grad), *others = (step(problem._replace(case=small), inputs, x) for x in problem.configurations)
    assert grad.abs().max() > 0 and others
    # Balance multiplies by a quotient of the sums, and a chunk ends in a sum that is rounded.
    rounded = problem.balance or (num_classes > MAX_SINGLES and not problem.in_tiles)
    for other_loss, other_grad in others:
        torch.testing.assert_close(other_loss, loss, **LOSS)
        torch.testing.assert_close(other_grad, grad, **(GRADIENT[grad.dtype] if rounded else {"rtol": 0, "atol": 0}))


def test_without_a_gpu_there_is_nothing_to_time(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "PyTorch sees no GPU" in capsys.readouterr().err


def test_a_problem_that_is_not_there_is_a_line_with_those_that_are(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--only", "4x151"])
    assert "--only must have a word of a title, got '4x151': " in capsys.readouterr().err


def test_titles_tell_problems_apart():
    assert len({problem.title for problem in PROBLEMS}) == len(PROBLEMS)


def test_a_line_of_the_table():
    launches = (Launches("fuzzy_positive_kernel", 8, 800.0), Launches("scale_kernel", 8, 10.0))
    assert describe(Config(1, 64, 1, 128), launches, 8) == (
        "group 1 block 64 num_warps 1 max_registers 128: 101.2 us: fuzzy_positive_kernel 100.00, scale_kernel 1.25"
    )
    assert describe(None, launches, 8).startswith("as usual: 101.2 us: ")
