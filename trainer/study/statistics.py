"""Statistics of a study: mean and spread of each cell, and differences between cells, paired by seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import stats

from fpl_fast.trainer.recipes.published import Published, find_published
from fpl_fast.trainer.study.grid import USUAL, Cell, Study
from fpl_fast.trainer.study.state import TrialState

__all__ = ["CellResult", "Difference", "cell_results", "differences"]

_CONFIDENCE = 0.95


class CellResult(NamedTuple):
    """Scores of a cell, per cent mIoU."""

    cell: Cell
    num_seeds: int
    """Seeds that the study asks for."""
    scores: Mapping[int, float]
    """By seed; without runs that are not done and scores that are not numbers."""
    published: Published | None

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None without a score."""
        return statistics.fmean(self.scores.values()) if self.scores else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds, with n - 1; None with fewer than two scores."""
        return statistics.stdev(self.scores.values()) if len(self.scores) > 1 else None

    @property
    def gap(self) -> float | None:
        """Mean minus the paper's number."""
        return None if self.mean is None or self.published is None else self.mean - self.published.miou


class Difference(NamedTuple):
    """Difference of two cells over the seeds that both have, points of mIoU."""

    cell: Cell
    baseline: Cell
    values: tuple[float, ...]
    """``cell`` minus ``baseline``, seed by seed."""

    @property
    def mean(self) -> float:
        """Mean of the differences."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the differences, with n - 1; None of a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Confidence interval of the mean at 95 % by Student's t; None of a single difference."""
        if self.deviation is None:
            return None
        half = float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(self.values) - 1)) * self.deviation
        half /= math.sqrt(len(self.values))
        return self.mean - half, self.mean + half


def cell_results(study: Study, states: Mapping[str, TrialState]) -> list[CellResult]:
    """Collect the scores of each cell."""
    results = []
    for cell in study.cells:
        trials = [trial for trial in study.trials if trial.cell == cell]
        scores = {
            trial.seed: 100 * miou
            for trial in trials
            if (miou := states[trial.name].miou) is not None and not math.isnan(miou)
        }
        data, _, method = cell.recipe.partition("/")
        published = None
        if cell.variant == USUAL:
            published = find_published(data, method, trials[0].config.model.backbone, cell.partition)
        results.append(CellResult(cell, len(trials), scores, published))
    return results


def differences(results: Sequence[CellResult]) -> list[Difference]:
    """Compare each cell with those that a reader would hold it against, as far as the study has them.

    These are the method without FPL, supervised training, and the grid's first variant of the recipe, each with the
    same part of the labels and the same backbone, and the first two with the same variant where there is one.
    """
    found = []
    for result in results:
        for baseline in _baselines(result.cell, [other.cell for other in results]):
            scores = next(other.scores for other in results if other.cell == baseline)
            seeds = sorted(result.scores.keys() & scores.keys())
            if seeds:
                values = tuple(result.scores[seed] - scores[seed] for seed in seeds)
                found.append(Difference(result.cell, baseline, values))
    return found


def _baselines(cell: Cell, cells: Sequence[Cell]) -> list[Cell]:
    data, _, method = cell.recipe.partition("/")
    plain = method.removeprefix("fpl_")
    beside = [other for other in cells if (other.partition, other.backbone) == (cell.partition, cell.backbone)]
    wanted = [plain] if plain != method else []
    if method != "supervised":
        wanted.append("supervised")
    baselines = []
    for name in wanted:
        of_method = [other for other in beside if other.recipe == f"{data}/{name}"]
        same = [other for other in of_method if other.variant == cell.variant]
        baselines += (same or of_method)[:1]
    variants = [other for other in beside if other.recipe == cell.recipe]
    return baselines + [other for other in variants[:1] if other != cell]
