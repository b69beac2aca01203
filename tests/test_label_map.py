import pytest

from fpl_fast.trainer.config import FolderData, RunConfig
from fpl_fast.trainer.config.io import override_config
from fpl_fast.trainer.config.label_map import read_label_map, show_label_map
from fpl_fast.trainer.methods.cps import CpsConfig


@pytest.mark.parametrize(
    ("label_map", "classes"),
    [
        (None, {}),
        ({255: 1}, {255: 1}),
        ({0: None, "1-150": "0-149"}, {0: None} | {value: value - 1 for value in range(1, 151)}),
        ({"3-5": 2, "7": "0"}, {3: 2, 4: 2, 5: 2, 7: 0}),
        ({"250 - 255": None}, dict.fromkeys(range(250, 256))),
        ({"2-2": "4-4"}, {2: 4}),
    ],
)
def test_what_values_stand_for(label_map, classes):
    assert read_label_map(label_map) == classes


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        ({256: 0}, r"data\.label_map must be made of numbers 0 \.\.\. 255 \(labels are 8-bit\), got '\{256: 0\}'"),
        ({"0-300": None}, r"numbers 0 \.\.\. 255 .*, got '\{0-300: null\}'"),
        ({3: 300}, r"numbers 0 \.\.\. 255 .*, got '\{3: 300\}'"),
        ({-1: 0}, r"must hold numbers, ranges such as 1-150, and null for no label, got \{-1: 0\}"),
        ({"a": 0}, r"must hold numbers, .*, got \{a: 0\}"),
        ({3: "none"}, r"must hold numbers, .*, got \{3: none\}"),
        ({True: 0}, r"must hold numbers, .*, got \{True: 0\}"),
        ({"5-3": 0}, r"must be made of ascending ranges, got '\{5-3: 0\}'"),
        ({"1-3": "0-3"}, r"must be between ranges of one length, got '\{1-3: 0-3\}'"),
        ({1: "0-3"}, r"must be between ranges of one length, got '\{1: 0-3\}'"),
        ({"1-3": 0, 2: 1}, r"must be a map that names 2 once, got '\{1-3: 0, 2: 1\}'"),
    ],
)
def test_wrong_maps(label_map, message):
    with pytest.raises(ValueError, match=message) as error:
        read_label_map(label_map)
    assert "\n" not in str(error.value)


def test_it_is_shown_as_it_is_typed():
    assert show_label_map({0: None, "1-150": "0-149", 200: 3}) == "{0: null, 1-150: 0-149, 200: 3}"


@pytest.mark.parametrize("text", ["{4:3}", "{1:0,2:1}", "{1:30: 2}", "{010: 1}", "{1_0: 3}", "{0: 1, 0: 2}"])
def test_what_yaml_would_read_as_another_number_is_refused(text):
    with pytest.raises(ValueError, match=r"data\.label_map"):
        override_config(RunConfig(method=CpsConfig(), data=FolderData()), ["--data.label_map", text])
