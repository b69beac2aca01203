"""Group of the processes of a test."""

from contextlib import contextmanager

from torch import distributed


@contextmanager
def process_group(rank, folder, world_size):
    """Join processes that meet in a folder.

    None leaves before all have done: the others may still be connecting to it, and would find that it has hung up.
    """
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    yield
    distributed.barrier()
    distributed.destroy_process_group()
