"""Processes of a test, in one group."""

from torch import distributed, multiprocessing


def fork_group(function, num_processes, folder, *arguments):
    """Run ``function(rank, folder, *arguments)`` in processes of one group; what one of them raises is raised here.

    They are forked, because importing torch takes longer than what they do.
    """
    given = (function, num_processes, folder, *arguments)
    multiprocessing.start_processes(_join_and_run, given, num_processes, start_method="fork")


def _join_and_run(rank, function, num_processes, folder, *arguments):
    meet = f"file://{folder}/meet"
    distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=num_processes)
    function(rank, folder, *arguments)
    # None leaves before all have done: the others may still be connecting to it, and would find that it has hung up.
    distributed.barrier()
    distributed.destroy_process_group()
