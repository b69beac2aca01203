"""``python elastic_launch.py train …``: torchrun's launcher for two processes, which it forks from this one."""

import sys

import elastic_run
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

if __name__ == "__main__":
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        max_restarts=1,
        run_id="tests",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="fork",
    )
    elastic_launch(config, elastic_run.train)(*sys.argv[1:])
