"""The campaign of chaos.py in short: a round, every operation of a checkpoint's write, defects that it must find."""

import json
from pathlib import Path

import numpy as np
import pytest
from chaos import KINDS, PLAN, Draw, main, plan
from chaos_files import recorded
from fork_server import python


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """The findings of chaos_defects.py."""
    script = str(Path(__file__).with_name("chaos_defects.py"))
    done = python(script, str(tmp_path_factory.mktemp("chaos")))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_sound_product_passes(played):
    assert played["found"]["nothing"] is None


@pytest.mark.parametrize(
    ("defect", "verdict"),
    [
        ("write_in_place", "last.ckpt: must be a whole checkpoint"),
        ("forget_the_interval", ", 3, 4)"),  # promised, reached
        ("forget_the_generators", "assert_same_state"),
    ],
)
def test_defects_are_found(played, defect, verdict):
    assert verdict in played["found"][defect]


def test_a_checkpoint_is_the_previous_or_the_new_one_at_every_operation_of_its_write(played):
    """The new one once it is renamed, whatever comes after; one that is written in place is lost until it is whole."""
    sound, in_place = (np.array(played["saves"][defect]) for defect in ("nothing", "write_in_place"))
    assert set(sound) == {1, 2} and sound.tolist() == sorted(sound)
    assert -1 in in_place


def test_making_a_folder_that_is_there_is_no_operation(tmp_path):
    """It needs no room on a full disk."""
    code = (
        f"import os, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from chaos_files import Recorder\n"
        "Recorder(Path('run'), Path('record')).install()\n"
        "for _ in range(2): os.makedirs('run/a', exist_ok=True)\n"
        "os.rename('run/a', 'run/b')\n"
    )
    assert python("-c", code, cwd=tmp_path).returncode == 0
    assert [str(point) for point in recorded(tmp_path / "record")] == ["mkdir 1 of .", "mkdir 1 of a", "rename 1 of b"]


@pytest.mark.parametrize("options", [["--rounds", "0"], ["--rounds", "2", "--skip", "2"]])
def test_a_campaign_of_no_rounds_is_refused(monkeypatch, capsys, options):
    monkeypatch.setattr("sys.argv", ["chaos.py", *options])
    with pytest.raises(SystemExit):
        main()
    assert "--rounds must be >= 1 and --skip in [0, rounds)" in capsys.readouterr().err


def test_consecutive_seeds_visit_everything():
    """Rounds of one kind have consecutive seeds, each of which brings its round back by itself."""
    names = [name for name, _ in plan(len(PLAN), 5, None)]
    assert set(names) == set(KINDS)
    seeds = [seed for _, seed in plan(7, 5, "full_disk")]
    assert seeds == list(range(5, 12))
    assert sorted(Draw(seed, "full_disk").pick(range(7)) for seed in seeds) == list(range(7))
    assert Draw(8, "full_disk").rng.random() == Draw(8, "full_disk").rng.random() != Draw(8, "stopped").rng.random()
