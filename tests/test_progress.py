import pytest
from trainer_runs import Quiet, tiny_run

from fpl_fast.trainer.commands.progress import describe_record
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.run_folder import RunFolder

RATES = {"images_per_second": 12.34, "loader_wait": 0.056, "peak_memory_mb": 789.1}


def test_a_record_names_each_loss():
    scalars = {"loss": 3.0, "loss_sup": 1.5, "loss_labelled": 0.5, "loss_unsup": 1.0, "mean_positives": 1.234, **RATES}
    assert describe_record("train", scalars) == (
        "loss 3.000  sup 1.500  labelled 0.500  unsup 1.000  K 1.23  12.3 images/s  waiting 6 %  789 MB"
    )


@pytest.mark.parametrize(
    "method",
    [
        {"name": "supervised"},
        {"name": "mean_teacher", "loss": "mse"},
        {"name": "cutmix_seg", "loss": "mse"},
        {"name": "ael"},
    ],
)
def test_every_method_can_be_described(tmp_path, method):
    monitor = Quiet()
    train(tiny_run(**method), RunFolder(tmp_path / "run"), monitor)
    texts = [describe_record(split, scalars) for _, split, scalars in monitor.records]
    assert all(text.startswith(("loss ", "mIoU ")) for text in texts)
    assert ("unsup" in texts[0]) == (method["name"] != "supervised")
    assert ("  K " in texts[0]) == (method["name"] == "ael")
