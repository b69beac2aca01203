"""Launching of runs as jobs of submitit, on this machine or on SLURM."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import submitit
from submitit.core.utils import FailedJobError

__all__ = ["Cluster", "Launcher", "TrialProcess"]

Cluster = Literal["local", "slurm"]
_NO_LIMIT_MIN = 60 * 24 * 365  # submitit stops a local job after a few minutes unless told otherwise


class TrialProcess:
    """A command as a job: it runs in a process of its own, and is asked to save when the job must end.

    Args:
        command: Program and arguments.
        log: File that its output is appended to.
        environment: Variables to set for it.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.command, self.log, self.environment = list(command), log, dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._asked_to_stop = False

    def __call__(self) -> int:
        """Run the command; returns its exit code."""
        if os.environ.get("SUBMITIT_EXECUTOR") == "local":  # a cluster signals the run itself, too
            signal.signal(signal.SIGTERM, lambda *_: self._stop())
        with self.log.open("ab") as log:
            # A session of its own: a signal to all processes of the terminal reaches it once, through this process.
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | self.environment,
                start_new_session=True,
                preexec_fn=_ignore_time_limit,
            )
        return self._process.wait()

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Save and submit again; submitit calls this shortly before a time limit."""
        self._stop()
        if self._process is not None:
            # A signal handler runs within __call__, whose wait() holds the lock of the process: wait beside it.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(TrialProcess(self.command, self.log, self.environment))

    def _stop(self) -> None:
        """Ask the run to save and end; asked twice, it would end at once."""
        if self._process is not None and not self._asked_to_stop:
            self._asked_to_stop = True
            self._process.terminate()


def _ignore_time_limit() -> None:
    """Ignore the signal before a time limit, which SLURM sends to all processes of a job."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


class Launcher:
    """Submits runs.

    Args:
        folder: Folder of submitit's files.
        cluster: "local" or "slurm".
        devices: GPUs of a run; with several, its processes are started by torchrun.
        options: Parameters of submitit, such as ``timeout_min`` and ``slurm_partition``.

    Raises:
        ValueError: There is no such cluster here, or it has no such parameter.
    """

    def __init__(self, folder: Path, *, cluster: Cluster, devices: int, options: Mapping[str, Any]) -> None:
        self.devices, self.is_remote = devices, cluster != "local"
        parameters = {"timeout_min": _NO_LIMIT_MIN if cluster == "local" else 24 * 60, "name": "fpl-fast", **options}
        if devices and self.is_remote:  # on this machine, the environment of a run says which ones
            parameters["gpus_per_node"] = devices
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._executor.update_parameters(**parameters)
        except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0].strip() or "a parameter of another type"
            raise ValueError(f"--cluster {cluster} with {parameters} must be what submitit takes: {reason}") from None

    def command(self, config: Path, out: Path) -> list[str]:
        """Command that trains a configuration, or goes on where it has stopped."""
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.devices)]
        train = ["-m", "fpl_fast.trainer.cli", "train", str(config), "--out", str(out), "--auto-resume"]
        return [sys.executable, *(launcher if self.devices > 1 else []), *train]

    def submit(self, process: TrialProcess) -> submitit.Job[int]:
        """Submit a run.

        Raises:
            ValueError: The cluster refuses it.
        """
        # Jobs on this machine ignore Ctrl-C, which a terminal sends to all of its processes: the study asks them.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return self._executor.submit(process)
        except FailedJobError as error:
            raise ValueError(f"the cluster must accept the job, but answers: {error} (--cluster-option)") from None
        finally:
            signal.signal(signal.SIGINT, handler)

    def ask_to_save(self, job: submitit.Job[int]) -> None:
        """Ask a run on this machine to save and end; the process that submitit started for the job passes it on."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(job.job_id), signal.SIGTERM)
