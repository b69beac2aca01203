import itertools

import pytest
from data_trees import NUM_TRAIN, city_tree, voc_tree

from fpl_fast.trainer.data.cityscapes import CITYSCAPES
from fpl_fast.trainer.data.public import DENOMINATORS, PublicLists, image_id
from fpl_fast.trainer.data.voc import VOC

SIZES = {32: 2, 16: 3, 8: 5, 4: 9, 2: 17}


def ids(split):
    names = [image_id(pair.image) for pair in split.pairs]
    assert len(set(names)) == len(names)
    return set(names)


def test_lists_are_read_where_they_exist(tmp_path):
    train = set(voc_tree(tmp_path))
    lists = PublicLists(VOC, tmp_path)
    for denominator in (16, 8, 4, 2):
        labelled = lists.labelled(denominator, seed=0)
        unlabelled = lists.unlabelled(denominator, labelled)
        name = tmp_path / f"subset_train_aug/train_aug_labeled_1-{denominator}.txt"
        assert [image_id(pair.image) for pair in labelled.pairs] == name.read_text().split()
        assert labelled.origin == name.relative_to(tmp_path).as_posix()
        assert unlabelled.origin == labelled.origin.replace("labeled", "unlabeled")
        assert ids(labelled) | ids(unlabelled) == train
        assert not ids(labelled) & ids(unlabelled)


@pytest.mark.parametrize("official", [False, True])
def test_a_32nd_lies_in_the_16th_list(tmp_path, official):
    train = set(city_tree(tmp_path, official=official))
    lists = PublicLists(CITYSCAPES, tmp_path)
    small, large = lists.labelled(32, seed=0), lists.labelled(16, seed=0)
    assert len(small.pairs) == SIZES[32]
    assert ids(small) < ids(large)
    assert ids(lists.unlabelled(32, small)) == train - ids(small)
    assert "train_aug_labeled_1-16.txt" in small.origin
    assert len({frozenset(ids(lists.labelled(32, seed))) for seed in range(20)}) > 1


@pytest.mark.parametrize("listed", [(), (16,), (8, 4), (2,)])
def test_parts_are_nested_whatever_lists_exist(tmp_path, listed):
    city_tree(tmp_path, partitions=listed)
    parts = {d: PublicLists(CITYSCAPES, tmp_path).labelled(d, seed=3) for d in DENOMINATORS}
    assert {d: len(part.pairs) for d, part in parts.items()} == SIZES
    for small, large in itertools.pairwise(parts.values()):
        assert ids(small) < ids(large)
    assert {d for d in parts if parts[d].origin.endswith(f"train_aug_labeled_1-{d}.txt")} == set(listed)


def test_both_layouts_and_no_lists_choose_the_same_images(tmp_path):
    trees = {"listed": {}, "official": {"official": True}, "bare": {"official": True, "lists": False}}
    chosen = []
    for name, options in trees.items():
        city_tree(tmp_path / name, seed=7, partitions=(), **options)
        chosen.append(ids(PublicLists(CITYSCAPES, tmp_path / name).labelled(8, seed=0)))
    assert chosen[0] == chosen[1] == chosen[2]


def test_training_images_without_their_list(tmp_path):
    train = set(voc_tree(tmp_path, train_list=False, partitions=(8,)))
    lists = PublicLists(VOC, tmp_path)
    assert ids(lists.train()) == train
    assert ids(lists.unlabelled(32, lists.labelled(32, seed=0))) | ids(lists.labelled(32, seed=0)) == train
    (tmp_path / "subset_train_aug/train_aug_unlabeled_1-8.txt").unlink()
    with pytest.raises(
        ValueError, match=r"train_aug\.txt: the list file must exist, but is missing; --data\.root names"
    ):
        lists.train()


def test_lists_of_ones_own(tmp_path):
    train = sorted(voc_tree(tmp_path, partitions=(8,)))
    (tmp_path / "own_train.txt").write_text("\n".join(train[:20]))
    (tmp_path / "few.txt").write_text("train_aug/image/{0}.jpg train_aug/label/{0}.png\n".format(train[0]))
    lists = PublicLists(VOC, tmp_path, train="own_train.txt")
    few = lists.read("few.txt")
    assert ids(few) == {train[0]}
    assert ids(lists.unlabelled(8, few)) == set(train[1:20])  # not the list that belongs to the part's own labels
    with pytest.raises(ValueError, match=r"own_train\.txt: must name more images than own_train\.txt"):
        lists.unlabelled(8, lists.train())


def test_a_misspelt_list_is_not_made_up(tmp_path):
    city_tree(tmp_path, partitions=())
    with pytest.raises(
        ValueError, match=r"lists/train\.txt: the list file must exist, but is missing; --data\.root names"
    ):
        PublicLists(CITYSCAPES, tmp_path).read("lists/train.txt")


def test_tree_has_as_many_training_images_as_it_says(tmp_path):
    assert len(city_tree(tmp_path)) == NUM_TRAIN
