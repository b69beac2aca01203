import torch
from process_group import fork_group

from fpl_fast.trainer.methods.selection import Selection
from fpl_fast.trainer.methods.unreliable import percentiles

SIZES = (6, 11)  # labelled and unlabelled pixels of a process


def test_members_are_numbered_in_order():
    member = torch.rand(4, 17) < torch.tensor([0.0, 0.2, 0.6, 1.0]).view(4, 1)
    selection = Selection(member, 6)
    assert torch.equal(selection.total, member.sum(1))
    index, here = selection.find(torch.arange(20).expand(4, -1))
    for row, found, mine in zip(member, index, here, strict=True):
        assert torch.equal(found[mine], row.nonzero().flatten())
        assert mine.sum() == row.sum()


def parts(rank, member, values):
    """Share of process ``rank`` of three in the labelled and in the unlabelled pixels."""
    both = [x.split([3 * SIZES[0], 3 * SIZES[1]], dim=-1) for x in (member, values)]
    return [torch.cat([part.chunk(3, dim=-1)[rank] for part in x], dim=-1) for x in both]


def one_of_three(rank, folder, member, values, wanted):
    mine, ours = parts(rank, member, values)
    selection = Selection(mine, SIZES[0])
    index, here = selection.find(wanted)
    (high,) = percentiles(ours, [80.0], ours > 0.2)
    torch.save((selection.total, ours[index] * here, here, high), folder / str(rank))


def test_processes_find_what_one_finds(tmp_path):
    """Each wanted member in exactly one of them."""
    member, values = torch.rand(4, 51) < 0.4, torch.rand(51)
    wanted = torch.randint(25, (4, 30))
    fork_group(one_of_three, 3, tmp_path, member, values, wanted)
    results = [torch.load(tmp_path / str(rank)) for rank in range(3)]
    selection = Selection(member, 18)
    index, here = selection.find(wanted)
    assert all(torch.equal(total, selection.total) for total, *_ in results)
    assert torch.equal(sum(found for _, found, *_ in results), values[index] * here)
    assert torch.equal(sum(mine.long() for _, _, mine, _ in results), here.long())
    assert all(high == percentiles(values, [80.0], values > 0.2)[0] for *_, high in results)
