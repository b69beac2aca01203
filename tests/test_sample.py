from fpl_fast.trainer.data.sample import index_palette, value_ranges


def test_palette_of_voc():
    palette = index_palette(256)
    # aeroplane, person, tv/monitor and void of the published table
    assert [palette[i] for i in (1, 15, 20, 255)] == [(128, 0, 0), (192, 128, 128), (0, 64, 128), (224, 224, 192)]
    assert len(set(palette)) == 256


def test_ranges():
    assert value_ranges([]) == ""
    assert value_ranges([3]) == "3"
    assert value_ranges([0, 1, 2, 5, 7, 8, 255]) == "0-2, 5, 7-8, 255"
