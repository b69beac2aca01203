from pathlib import Path

import numpy as np
import pytest
from bench_runs import cell, table_of, write_results
from PIL import Image

from fpl_fast.bench.cases import Case
from fpl_fast.bench.peers import PEERS
from fpl_fast.bench.plots import write_plots
from fpl_fast.bench.results import read_results


def pictures_of(tmp_path, cells):
    results = read_results(write_results(tmp_path / "run.json", cells))
    return {path.stem.removeprefix("run-"): path for path in write_plots(results, tmp_path, "run")}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=int)


def test_every_picture_that_has_data(tmp_path) -> None:
    scale = [
        cell(Case(shape=(images, 4, 100, 100)), peer, problem="scale", median_s=images * 1e-5)
        for images in (10, 100)
        for peer in ("triton", "cross_entropy")
    ]
    assert pictures_of(tmp_path, []) == {}
    assert list(pictures_of(tmp_path, table_of())) == ["roofline", "memory"]
    assert list(pictures_of(tmp_path, [*scale, *table_of()])) == ["time", "roofline", "memory"]


@pytest.mark.parametrize("peer", PEERS, ids=[peer.name for peer in PEERS])
def test_every_peer_has_a_colour(tmp_path, peer) -> None:
    """And it is seen: a picture with it differs from one without."""
    without = pictures_of(tmp_path, table_of({"cross_entropy": 0.1}))["memory"]
    before = pixels(without).shape, pixels(without).sum()
    found = pictures_of(tmp_path, [*table_of({"cross_entropy": 0.1}), cell(peer=peer.name)])["memory"]
    assert (pixels(found).shape, pixels(found).sum()) != before


def test_a_run_draws_the_same_pictures_again(tmp_path) -> None:
    first = {name: path.read_bytes() for name, path in pictures_of(tmp_path, table_of()).items()}
    assert first == {name: path.read_bytes() for name, path in pictures_of(tmp_path, table_of()).items()}
