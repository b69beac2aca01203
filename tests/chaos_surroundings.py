"""Further ways to disturb a run: through its files, its loaders, other processes and the clock (see chaos_kinds.py)."""

import glob
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from chaos_run import STEPS
from distributed_runs import config as distributed_config
from distributed_runs import launch, real
from test_loop import assert_same_state, metrics
from trainer_runs import HANGS

from fpl_fast.trainer.config.io import save_config
from fpl_fast.trainer.run.folder import RunFolder

if TYPE_CHECKING:
    from chaos import Campaign, Draw

NOBODY = 65534


def read_only_folder(campaign: "Campaign", folder: RunFolder, draw: "Draw") -> Iterator[str]:
    """A folder that may not be written to, new or of a run that has been stopped, until it may."""
    tiny, new = campaign.tiny, bool(draw.rng.integers(2))
    yield "of a new run" if new else "of a stopped run"
    since = 0 if new else campaign.copy_stopped(folder)
    folder.path.mkdir(exist_ok=True)
    before = _contents(folder)
    _set_modes(folder.path, 0o555, 0o444)
    ended = tiny.start(folder, _lose_privileges).wait()
    ended.require_one_line(str(folder.path))
    assert _contents(folder) == before
    _set_modes(folder.path, 0o755, 0o644)
    tiny.require_continues(folder, ended, since=since)


def _lose_privileges() -> None:
    if os.geteuid() == 0:  # who may write everywhere
        os.setegid(NOBODY), os.seteuid(NOBODY)


def _set_modes(root: Path, of_folders: int, of_files: int) -> None:
    for path in [root, *root.rglob("*")]:
        path.chmod(of_folders if path.is_dir() else of_files)


def _contents(folder: RunFolder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}


def damaged_checkpoint(campaign: "Campaign", folder: RunFolder, draw: "Draw") -> Iterator[str]:
    """The last checkpoint, damaged in one of its parts: refused, until the other one is copied over it as it says."""
    tiny = campaign.tiny
    since = campaign.copy_stopped(folder)
    content = bytearray(folder.last.read_bytes())
    part, parts = draw.pick(range(32)), 32
    begin, end = (len(content) * place // parts for place in (part, part + 1))
    how = draw.rng.choice(["a bit flipped", "inverted", "exchanged for noise", "cut off", "cut out", "doubled"])
    yield f"{how} in part {part + 1} of {parts}"
    if how == "a bit flipped":
        content[draw.rng.integers(begin, end)] ^= 1 << draw.rng.integers(8)
    elif how == "inverted":
        content[begin:end] = bytes(255 - byte for byte in content[begin:end])
    elif how == "exchanged for noise":
        content[begin:end] = draw.rng.bytes(end - begin)
    elif how == "doubled":
        content[begin:begin] = content[begin:end]
    else:
        del content[begin : end if how == "cut out" else None]
    folder.last.write_bytes(content)
    before = _contents(folder)
    ended = tiny.start(folder).wait()
    ended.require_one_line("last.ckpt: must be a whole checkpoint")
    ended.require_one_line("copy best.ckpt, the run's other checkpoint, over it")
    after = _contents(folder)
    assert {**after, str(folder.lock): b""} == {**before, str(folder.lock): b""}
    shutil.copy(folder.best, folder.last)
    tiny.require_continues(folder, ended, since=since - 1)  # the best one, of the step before


def dead_loader(campaign: "Campaign", folder: RunFolder, draw: "Draw") -> Iterator[str]:
    """A loader process is killed, as the system does when memory is short."""
    tiny, step = campaign.tiny, int(draw.rng.integers(1, STEPS))
    workers, seed = str(draw.rng.integers(1, 3)), int(draw.rng.integers(2**31))
    yield f"at step {step}, of {workers} for each stream"

    def kill(done: int) -> None:
        if done == step:
            loaders = sorted(multiprocessing.active_children(), key=lambda child: child.pid)
            random.Random(seed).choice(loaders).kill()

    ended = tiny.start(folder, on_step=kill, options=("--train.workers", workers)).wait()
    if ended.code:  # it may have read all that was left to read
        ended.require_one_line("loader processes must live as long as the run")
    tiny.require_continues(folder, ended)


def two_runs(campaign: "Campaign", folder: RunFolder, draw: "Draw") -> Iterator[str]:
    """The same command once more, while the first trains, or at the same time."""
    tiny, step = campaign.tiny, int(draw.rng.integers(STEPS))
    yield f"while the first is at step {step}" if step else "at once"
    gate = tiny.parent / f"{folder.path.name}.gate"

    def pause(done: int) -> None:
        while done == step and not gate.exists():
            time.sleep(0.01)

    first = tiny.start(folder, on_step=pause)
    while first.reached < step and first.lives():
        time.sleep(0.01)
    second = tiny.start(folder).wait()
    if step or second.code:
        second.require_one_line("is at it" if step else str(folder.path))
    gate.touch()
    ended = first.wait()
    if ended.code and not step:
        ended.require_one_line(str(folder.path))
    assert 0 in (ended.code, second.code), (ended, second)
    tiny.require_continues(folder, max(ended, second, key=lambda end: end.reached))


def killed_rank(campaign: "Campaign", folder: RunFolder, draw: "Draw") -> Iterator[str]:
    """One of two processes under torchrun is killed; the launcher starts both again with the same command."""
    rank, step = int(draw.rng.integers(2)), int(draw.rng.integers(1, 7))
    yield f"process {rank} in step {step}"
    straight, run = RunFolder(campaign.parent / "straight_of_two"), distributed_config()
    if not straight.path.exists():
        launch(2, lambda: real(straight, run))
    configuration = campaign.parent / f"{folder.path.name}.yaml"
    save_config(run, configuration)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"),
        *(str(Path(__file__).with_name("elastic_run.py")), "train", str(configuration)),
        *("--out", str(folder.path), "--auto-resume"),
    ]
    # Otherwise the processes of the second attempt may read the addresses of the first one's.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    environment |= {"KILLED_RANK": str(rank), "KILLED_STEP": str(step)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, env=environment)
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr, done.stderr
    assert_same_state(folder.last, straight.last)
    assert metrics(folder) == metrics(straight)


def clock_set_back(campaign: "Campaign", folder: RunFolder, draw: "Draw") -> Iterator[str]:
    """The clock is set back before a run is continued, by libfaketime; ``None`` where it is not installed."""
    days = int(draw.rng.integers(1, 4000))
    libraries = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
    yield f"by {days} days" if libraries else "skipped: libfaketime is not installed"
    if not libraries:
        return
    tiny = campaign.tiny
    since = campaign.copy_stopped(folder)
    command = [sys.executable, "-m", "fpl_fast.trainer.cli", *tiny.arguments(folder)]
    environment = os.environ | {"LD_PRELOAD": libraries[0], "FAKETIME": f"-{days}d", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, env=environment)
    assert done.returncode == 0, done.stderr
    events = sorted(folder.tensorboard.iterdir())
    number = int(events[-1].name.split(".")[3])
    assert len(events) == 2 and number < time.time() - 86_400 * (days - 1), events
    assert events[-1].stat().st_mtime_ns > events[0].stat().st_mtime_ns, events  # last by name, as TensorBoard reads
    assert tiny.require_kept(folder, STEPS, since=since) == STEPS
    tiny.require_same(folder)
