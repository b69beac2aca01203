"""The training loop."""

import logging
import math
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fpl_fast.trainer.build import (
    build_method_networks,
    check_batches,
    describe_start,
    make_fabric,
    without_pretraining,
)
from fpl_fast.trainer.config import FileData, RunConfig
from fpl_fast.trainer.config.io import config_to_dict, flatten
from fpl_fast.trainer.data.check import require_no_leaks
from fpl_fast.trainer.data.damaged import skip_damaged
from fpl_fast.trainer.data.datasets import build_train_datasets, build_val_dataset, check_files, read_splits
from fpl_fast.trainer.data.inputs import first_images, read_batches
from fpl_fast.trainer.data.lists import Split
from fpl_fast.trainer.deterministic import deterministic_algorithms
from fpl_fast.trainer.evaluation.norm_statistics import renew_statistics
from fpl_fast.trainer.evaluation.teacher_quality import teacher_quality
from fpl_fast.trainer.evaluation.validation import (
    class_scalars,
    logged_pictures,
    save_evaluation,
    save_samples,
    validate,
)
from fpl_fast.trainer.finite import all_finite
from fpl_fast.trainer.methods import Batch, TrainingSet
from fpl_fast.trainer.models.normalization import with_normalization
from fpl_fast.trainer.optim import build_optimizer, poly_lr, set_lr
from fpl_fast.trainer.processes import first_decides, mean_over_processes, random_states, seed_process, share_buffers
from fpl_fast.trainer.run.clock import Clock, peak_memory_mb, reset_peak_memory
from fpl_fast.trainer.run.folder import RunFolder
from fpl_fast.trainer.run.interrupt import StopRequest
from fpl_fast.trainer.run.lock import RunLock
from fpl_fast.trainer.run.loggers import open_loggers, require_installed
from fpl_fast.trainer.run.metrics import MetricsLog
from fpl_fast.trainer.run.monitor import Monitor
from fpl_fast.trainer.run.state import TrainState
from fpl_fast.trainer.step import set_up_phases, train_step

__all__ = ["Outcome", "train"]

_LOGGER = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """Outcome of a call of ``train``."""

    step: int  # steps done
    miou: float  # of the last evaluation, NaN before the first
    stopped_by: int | None  # the signal that asked to stop; None when all steps are done
    is_first: bool  # whether this process is the one that wrote the folder


def train(
    config: RunConfig, folder: RunFolder | Path | str, monitor: Monitor | None = None, *, resume: bool = False
) -> Outcome:
    """Train a run, or the rest of one, in ``folder``.

    Args:
        config: The run.
        folder: A new folder, or with ``resume`` one whose last checkpoint is continued: on a CPU bit for bit as if the
            run had never stopped. A run that was killed before its first checkpoint begins anew. No other process can
            train in it meanwhile.
        monitor: Receives the progress; None: nobody does.
        resume: Whether to continue.

    When a run of one process ends between two steps, by an error of a loader for example, the steps done are saved
    first. Weights that are not finite are neither saved nor evaluated: the previous checkpoint stays. Several
    processes, of which one may be gone, save only at their interval (``train.checkpoint_every``). So does a run that
    ends within a step: half a step cannot be continued.

    Raises:
        ValueError: Configuration, data or checkpoint break a rule; raised before the first step where possible.
        FloatingPointError: The loss, a weight or a prediction is no longer finite.
    """
    folder = RunFolder(folder)
    with ExitStack() as at_exit:
        if config.train.deterministic:
            at_exit.enter_context(deterministic_algorithms())
        trainer = _Trainer(with_normalization(config), folder, monitor or Monitor(), at_exit, resume=resume)
        stop = at_exit.enter_context(StopRequest())
        try:
            return trainer.run(stop)
        except FloatingPointError:  # what is done is spoilt
            raise
        except Exception:
            trainer.save_what_is_done()
            raise


class _Trainer:
    """State of one call of ``train``. Only the first process writes files and calls the monitor."""

    def __init__(
        self, config: RunConfig, folder: RunFolder, monitor: Monitor, at_exit: ExitStack, *, resume: bool
    ) -> None:
        self.config, self.folder, self.monitor = config, folder, monitor
        self.fabric = fabric = make_fabric(config.train)
        fabric.seed_everything(config.train.seed, verbose=False)
        self.first = fabric.is_global_zero

        reset_peak_memory(fabric.device)

        first_decides(fabric, lambda: require_installed(config.train.loggers))
        if resume:
            first_decides(fabric, lambda: self._lock(at_exit))
        checkpoint: Path | None = fabric.broadcast(folder.newest_checkpoint() if resume else None)
        self.val = build_val_dataset(config.data)
        self.method = build_method_networks(without_pretraining(config) if checkpoint else config, self.val.num_classes)
        self.num_views = self.method.num_unlabelled_views
        check_batches(config, unlabelled=self.num_views > 0)
        self.datasets = build_train_datasets(config.data, unlabelled=self.num_views > 0)
        if self.datasets.unlabelled is not None:
            self.method.prepare(
                TrainingSet(self.val.num_classes, len(self.datasets.unlabelled), config.train.batch_unlabelled)
            )
        fabric.to_device(self.method)
        optimizer = build_optimizer(self.method, config.optim, fabric.device)
        self.module, self.optimizer = fabric.setup(self.method, optimizer)
        self.phases = set_up_phases(fabric, self.method)
        later = [phase.optimizer for phase in self.phases]
        self.state = TrainState(self.method, optimizer, fabric.strategy.precision, later)
        seed_process(fabric, config.train.seed)  # from here on; the networks have started from equal weights

        splits = read_splits(config.data, unlabelled=self.num_views > 0)
        if checkpoint:
            self.state.load(checkpoint, config, fabric.device, rank=fabric.global_rank)
            folder.check_splits(splits)
        else:
            first_decides(fabric, lambda: self._begin(splits, at_exit, resume=resume))
        if checkpoint:
            _LOGGER.info("the run goes on from %s, after step %d", checkpoint, self.state.step)
        else:
            if resume:
                _LOGGER.info("%s holds no checkpoint yet: the run begins again", folder.path)
            _LOGGER.info(describe_start(config, len(self.method.networks)))
        if isinstance(config.data, FileData) and config.data.skip_damaged:
            self.datasets = skip_damaged(self.datasets)
        self.log: MetricsLog | None = None
        first_decides(fabric, lambda: self._open_log(at_exit))
        self.clock = Clock(self.state.elapsed_s)
        self.read_step = self.state.step  # of the last reading of the clock
        self.unsaved = False  # whether a whole step is done that no checkpoint holds

    def _lock(self, at_exit: ExitStack) -> None:
        self.folder.path.mkdir(parents=True, exist_ok=True)
        at_exit.enter_context(RunLock(self.folder.lock))

    def _begin(self, splits: Mapping[str, Split], at_exit: ExitStack, *, resume: bool) -> None:
        """Create the folder of the run, once the data has been checked."""
        if resume:
            self.folder.require_nothing_to_lose(self.config)
        else:
            self.folder.require_free()
        require_no_leaks(self.config.data, splits)
        check_files(self.config.data, self.datasets, self.val, self.monitor.checking)
        if not resume:
            self._lock(at_exit)
            self.folder.require_free()  # still
        self.folder.create(self.config)
        if isinstance(self.config.data, FileData):
            self.folder.write_splits(splits, self.config.data.root)

    def _open_log(self, at_exit: ExitStack) -> None:
        folder, step, loggers = self.folder, self.state.step, open_loggers(self.folder, self.config)
        self.log = at_exit.enter_context(MetricsLog(folder.metrics, folder.tensorboard, step=step, loggers=loggers))
        if step == 0:
            self.log.configuration(flatten(config_to_dict(self.config)))

    def run(self, stop: StopRequest) -> Outcome:
        """Train until the last step or until asked to stop."""
        state, fabric = self.state, self.fabric
        batches = read_batches(
            self.config,
            self.datasets,
            num_unlabelled_views=self.num_views,
            device=fabric.device,
            start_step=state.step,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
            donors=self.method.donors,
            paste=self.method.reads_paste_sources,
        )
        with closing(batches):
            self._take_steps(batches, stop)
        stopped_by = (stop.signal or signal.SIGTERM) if state.step < self.config.train.steps else None
        return Outcome(state.step, state.miou, stopped_by, self.first)

    def _take_steps(self, batches: Iterator[Batch], stop: StopRequest) -> None:
        """Take a step for each batch, and log, evaluate and save when they are due."""
        config, state, fabric = self.config, self.state, self.fabric
        steps = config.train.steps
        if self.first:
            self.monitor.started(state.step, steps)
        self.module.train()
        if state.pending:
            self._finish_step()
        for batch in self.clock.waiting(batches):
            self.unsaved = False
            progress = state.step / steps
            set_lr(self.optimizer, poly_lr(config.optim, state.step, steps))
            values = train_step(
                fabric,
                self.module,
                self.optimizer,
                batch,
                progress,
                num_micro_batches=config.train.accumulate,
                phases=self.phases,
            )
            if batch.replaced is not None:
                total = float(batch.replaced * fabric.world_size)  # the mean over processes is logged
                values["replaced_images"] = torch.full((), total, device=fabric.device)
            self.method.after_step(state.step)
            state.meter.update(values)
            state.step += 1
            state.pending = self.unsaved = True
            if not self.clock.started:
                self.clock.start()
                self.read_step = state.step

            if self.first:
                self.monitor.stepped(state.step)
            log_due = self._finish_step()
            if state.step < steps and self._stop_agreed(stop, log_due):
                if (loss := state.meter.sum("loss")) is not None:
                    self._require_finite(float(loss))
                if self.unsaved:
                    self._save(best=False)
                break

    def _finish_step(self) -> bool:
        """Log, evaluate and save if they are due at this step; return whether the device was read."""
        config, state = self.config, self.state
        steps = config.train.steps
        evaluation_due = state.step % config.eval.every == 0 or state.step == steps
        save_due = evaluation_due or state.step % config.train.checkpoint_every == 0
        log_due = save_due or state.step % config.train.log_every == 0  # the loss is looked at before a save
        if log_due and state.meter.sum("loss") is not None:
            self._log_means(poly_lr(config.optim, state.step - 1, steps))
        best = False
        if evaluation_due and math.isnan(state.miou):
            # A first evaluation without a checkpoint would look like a run that has lost its checkpoints.
            with self.clock.paused():
                self._save(best=False)
        if evaluation_due:
            # Images of many sizes would each be compiled for. Loaders draw seeds: a step that is saved because its
            # evaluation failed must not notice.
            with (
                self.clock.paused(),
                torch.compiler.set_stance("force_eager"),
                torch.random.fork_rng(devices=[]),
            ):
                best = self._evaluate()
        state.pending = False
        if save_due:
            with self.clock.paused():
                self._save(best=best)
        return log_due

    def save_what_is_done(self) -> None:
        """Save while an error ends the run, where that is possible and the run can continue from there."""
        try:
            loss = self.state.meter.sum("loss")
            sound = loss is None or math.isfinite(float(loss))
            if self.unsaved and sound and self.fabric.world_size == 1:
                self._save(best=False)
                _LOGGER.info("saved after step %d; fpl-fast train --resume goes on from there", self.state.step)
        except Exception as error:  # the error that ends the run is the one to report
            _LOGGER.warning("step %d could not be saved: %s", self.state.step, error)

    def _log_means(self, lr: float) -> None:
        """Read the means from the device and log them; all processes meet here."""
        names, means = self.state.meter.means()
        values = dict(zip(names, mean_over_processes(means).tolist(), strict=True))
        self._require_finite(values["loss"])
        if self.log is None:
            return
        train = self.config.train
        images_per_step = train.batch_labelled + self.num_views * train.batch_unlabelled
        rates = self.clock.read((self.state.step - self.read_step) * images_per_step)
        self.read_step = self.state.step
        self._record("train", {**values, "lr": lr, **rates, "peak_memory_mb": peak_memory_mb(self.fabric.device)})

    def _require_finite(self, loss: float) -> None:
        """Raise if the loss is not finite."""
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} after step {self.state.step}: a lower optim.lr may help")

    def _require_finite_weights(self) -> None:
        """Raise if a weight or a statistic is not finite; the loss is from before the step. All processes meet here."""
        spoilt = (~all_finite(self.method.state_dict().values())).float()
        if mean_over_processes(spoilt):
            raise FloatingPointError(
                f"a weight is not finite after step {self.state.step}, which is not saved: a lower optim.lr may help"
            )

    def _evaluate(self) -> bool:
        """Evaluate the network and keep its pictures; return whether it is the best so far."""
        network = self.method.eval_network
        if self.config.eval.norm_batches:
            for peer in self.method.peers:  # fpl-fast analyze takes the last one for the teacher
                with self.fabric.autocast():
                    renew_statistics(peer, first_images(self.config, self.datasets, self.num_views, self.fabric))
        share_buffers(self.fabric, network)
        self._require_finite_weights()
        progress = self.monitor.validating if self.first else None
        result = validate(network, self.val, self.config, self.fabric, progress)
        state = self.state
        state.miou = result.miou
        best = state.miou > state.best_miou
        state.best_miou = max(state.miou, state.best_miou)
        if self.first:
            save_evaluation(self.folder.evaluation, result, self.val.class_names, self.config.eval, step=state.step)
            samples = save_samples(self.folder, network, self.val, self.config, self.fabric)
            scores = {"miou": result.miou, "pixel_accuracy": result.pixel_accuracy}
            scores |= class_scalars(self.val.class_names, result.per_class_iou)
            if self.num_views:
                scores |= teacher_quality(self.method.teacher, self.val, self.config, self.fabric)
            self._record("val", scores | {"elapsed_s": self.clock.elapsed_s}, logged_pictures(samples))
        return best

    def _record(self, split: str, scalars: dict[str, float], pictures: Mapping[str, np.ndarray] | None = None) -> None:
        assert self.log is not None
        self.log.write(self.state.step, split, scalars, pictures)
        self.monitor.logged(self.state.step, split, scalars)

    def _save(self, *, best: bool) -> None:
        self.unsaved = False
        self._require_finite_weights()
        self.state.meter.share(mean_over_processes)
        states = random_states(self.fabric)
        if self.first:
            self.state.elapsed_s = self.clock.elapsed_s
            # ``last`` comes last: it holds best_miou, and a run killed in between would not write ``best`` again.
            for path in [self.folder.best, self.folder.last] if best else [self.folder.last]:
                self.state.save(path, config_to_dict(self.config), states)
        self.fabric.barrier()

    def _stop_agreed(self, stop: StopRequest, log_due: bool) -> bool:
        """Whether to stop after this step; several processes ask each other on log steps only."""
        asked = stop.signal is not None
        if self.fabric.world_size == 1:
            return asked
        if not log_due:
            return False
        return bool(mean_over_processes(torch.tensor(float(asked), device=self.fabric.device)) > 0)
