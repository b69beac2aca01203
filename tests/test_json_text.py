import json

from fpl_fast.trainer.writing.json_text import json_text


def test_numbers_that_json_has_not_become_null():
    def forbid(name):
        raise AssertionError(name)

    content = {"a": [1.5, float("nan"), {"b": (float("-inf"), 2)}], "c": float("inf"), "d": "NaN", "e": True}
    text = json_text(content, indent=1)
    assert json.loads(text, parse_constant=forbid) == {
        "a": [1.5, None, {"b": [None, 2]}], "c": None, "d": "NaN", "e": True,
    }  # fmt: skip
