import pytest
import yaml

from fpl_fast.trainer.config.plain_yaml import load_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{0: null, 1-150: 0-149}", {0: None, "1-150": "0-149"}),
        ("{4:3}", {"4:3": None}),  # not 243
        ("{010: 1, 1_0: 2, 0x10: 3}", {"010": 1, "1_0": 2, "0x10": 3}),
        ("{1:30: 2}", {"1:30": 2}),
        ("[1, -2, +3, 0, 1.5, 1e3, true, text]", [1, -2, 3, 0, 1.5, "1e3", True, "text"]),
    ],
)
def test_integers_are_decimal(text, value):
    assert load_yaml(text) == value


@pytest.mark.parametrize("text", ["{0: 1, 0: 2}", "a: {b: 1, b: 1}"])
def test_no_key_is_given_twice(text):
    with pytest.raises(yaml.YAMLError, match="is given twice"):
        load_yaml(text)
