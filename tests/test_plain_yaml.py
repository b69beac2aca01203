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


def bomb(line, first):
    """Ten repetitions of the line before in each of nine lines."""
    lines = [f"a0: &a0 {first}"]
    for level in range(1, 10):
        lines.append(f"a{level}: &a{level} {line([f'*a{level - 1}'] * 10)}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 3000 + "]" * 3000, "more than 32 levels"),
        ("{a: " * 3000, "more than 32 levels"),
        ("\n".join(f"{' ' * level}a:" for level in range(3000)), "more than 32 levels"),
        ("a0: &a0 x\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 3000)), "more than 32 levels"),
        (bomb(lambda items: f"[{', '.join(items)}]", "[x, x]"), "more than 20000 values"),
        (bomb(lambda items: str({f"k{i}": 0 for i in range(10)}).replace("0", items[0]), "{k: x}"), "more than 20000"),
        ("a: &a {b: *a}", "an alias within what it stands for"),
        ("a: &a [*a]", "an alias within what it stands for"),
        (f"train: {{steps: {'9' * 5000}}}", "a value must be of its type, int, got '9{40}...'"),
        ("a: 2001-13-45", "a value must be of its type, timestamp, got '2001-13-45'"),
        ("a: !!bool b", "a value must be of its type, bool, got 'b'"),
        ("a: !!timestamp b", "a value must be of its type, timestamp, got 'b'"),
    ],
)
def test_what_no_configuration_holds(text, message):
    with pytest.raises(yaml.YAMLError, match=message) as caught:
        load_yaml(text)
    assert len(str(caught.value)) < 300


def test_aliases_may_repeat():
    assert load_yaml("a: &a {x: [1, 2]}\nb: [*a, *a]") == {
        "a": {"x": [1, 2]},
        "b": [{"x": [1, 2]}] * 2,
    }
