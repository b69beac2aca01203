import torch

from fpl_fast.trainer.methods.key_bank import KeyBank


def test_the_latest_keys_of_each_class_are_kept_in_order():
    sizes, bank = [7, 3, 5], KeyBank([7, 3, 5], 2)
    queues = [[] for _ in sizes]
    for step in range(6):
        count = torch.randint(4, (3,))
        keys = torch.randn(3, 3, 2)
        bank.push(keys, count)
        for c, queue in enumerate(queues):
            queue += keys[c, : count[c]].tolist()
            del queue[: -sizes[c]]
            assert bank.length[c] == len(queue)
            taken = bank.take(torch.tensor([c]), torch.arange(len(queue)).unsqueeze(0))[0]
            torch.testing.assert_close(taken, torch.tensor(queue).view(-1, 2)), step


def test_more_keys_than_are_given_count_as_the_given_ones():
    bank = KeyBank([5], 2)
    bank.push(torch.ones(1, 3, 2), torch.tensor([9]))
    assert bank.length == 3


def test_a_checkpoint_holds_keys_and_their_number():
    bank = KeyBank([2, 2], 3)
    bank.push(torch.randn(2, 2, 3), torch.tensor([2, 1]))
    other = KeyBank([2, 2], 3)
    other.load_state_dict(bank.state_dict())
    wanted = torch.tensor([[0, 1], [0, 0]])
    assert torch.equal(other.take(torch.arange(2), wanted), bank.take(torch.arange(2), wanted))
    assert torch.equal(other.length, torch.tensor([2, 1]))
