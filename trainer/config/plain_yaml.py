"""YAML whose integers are decimal and whose keys are given once.

YAML 1.1 reads 4:3 as base 60, 010 as octal and 1_0 as ten, and lets the last of two equal keys win. In a map of label
values each of these would change labels without a word.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

__all__ = ["load_yaml"]

_INTEGER = "tag:yaml.org,2002:int"


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _INTEGER]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INTEGER, re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))


def load_yaml(text: str) -> Any:
    """Read YAML; what YAML 1.1 takes for an integer of another base is text.

    Raises:
        yaml.YAMLError: It is none, or a key is given twice.

    Example:
        >>> load_yaml("{4:3, 010: 1, 12: null}")
        {'4:3': None, '010': 1, 12: None}
    """
    return yaml.load(text, _Loader)
