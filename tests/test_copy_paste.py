import torch
from method_cases import SIZE, C, make_view

from fpl_fast.trainer.methods.copy_paste import copy_paste, query_classes


def test_query_classes_follow_the_deficit():
    deficit, targets = torch.tensor([0.9, 0.04, 0.5, 0.25]), torch.tensor([False, True, True, True])
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    expected = deficit.sqrt().exp() * targets
    expected = expected / expected.sum()
    drawn = torch.stack([query_classes(deficit, targets, 1, generator) for _ in range(4000)]).float().mean(0)
    assert drawn[0] == 0
    torch.testing.assert_close(drawn, expected, atol=0.04, rtol=0)  # five standard deviations
    counts = torch.stack([query_classes(deficit, targets, 3, generator) for _ in range(200)]).sum(1)
    assert set(counts.tolist()) == {1, 2, 3}  # drawn with replacement, merged


def test_pasting_equals_the_literal_version():
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    view, source = (make_view(generator, num=2, labelled=True) for _ in range(2))
    query = torch.tensor([True, False, False, True, False, False])
    ours = copy_paste(view, source, query)
    pasted = 0
    for n in range(2):
        for y in range(SIZE[0]):
            for x in range(SIZE[1]):
                c = source.label[n, y, x].item()
                origin = source if c in (0, 3) else view
                pasted += origin is source
                assert torch.equal(ours.image[n, :, y, x], origin.image[n, :, y, x])
                assert ours.label[n, y, x] == origin.label[n, y, x]
                assert ours.valid[n, y, x] == (view.valid[n, y, x] or origin is source)
    assert 0 < pasted < ours.label.numel()


def test_a_source_without_labels_pastes_nothing():
    generator = torch.Generator().manual_seed(0)
    view, source = (make_view(generator, num=2, labelled=True) for _ in range(2))
    source = source._replace(label=torch.full_like(source.label, 255))
    ours = copy_paste(view, source, torch.ones(C, dtype=torch.bool))
    assert all(torch.equal(a, b) for a, b in zip(ours, view, strict=True) if torch.is_tensor(a))
