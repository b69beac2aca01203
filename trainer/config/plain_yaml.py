"""YAML whose integers are decimal, whose keys are given once, and whose size is that of a configuration.

YAML 1.1 reads 4:3 as base 60, 010 as octal and 1_0 as ten, and lets the last of two equal keys win. In a map of label
values each of these would change labels without a word. Nesting and aliases are bounded, as a short text can hold more
than fits in memory.
"""

import re
from collections.abc import Hashable
from typing import Any, NamedTuple

import yaml

__all__ = ["load_yaml"]

_INTEGER = "tag:yaml.org,2002:int"
_MAX_LEVELS = 32
_MAX_VALUES = 20_000
_MAX_SHOWN = 40


class _Extent(NamedTuple):
    """Values that a node holds, itself and repetitions by aliases included, and levels of their nesting."""

    values: int
    levels: int


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0
        self._extents: dict[yaml.Node, _Extent] = {}  # of the nodes that are complete

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._level += 1
        mark = self.peek_event().start_mark
        _require(self._level <= _MAX_LEVELS, f"more than {_MAX_LEVELS} levels", mark)
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        assert node is not None
        _require(not is_alias or node in self._extents, "an alias within what it stands for", mark)
        if not is_alias:
            self._extents[node] = self._extent(node)
        extent = self._extents[node]
        _require(extent.values <= _MAX_VALUES, f"more than {_MAX_VALUES} values", mark)
        _require(self._level + extent.levels - 1 <= _MAX_LEVELS, f"more than {_MAX_LEVELS} levels", mark)
        self._level -= 1
        return node

    def _extent(self, node: yaml.Node) -> _Extent:
        if isinstance(node, yaml.ScalarNode):
            return _Extent(1, 1)
        items = [x for pair in node.value for x in pair] if isinstance(node, yaml.MappingNode) else node.value
        inner = [self._extents[item] for item in items]
        return _Extent(1 + sum(x.values for x in inner), 1 + max((x.levels for x in inner), default=0))

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception:  # a date that is none, an integer of too many digits, a text that is not of its tag
            kind, text = node.tag.rpartition(":")[2], str(node.value)
            got = repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "...")
            raise yaml.constructor.ConstructorError(
                None, None, f"a value must be of its type, {kind}, got {got}", node.start_mark
            ) from None

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


def _require(rule: bool, got: str, mark: yaml.Mark) -> None:
    if not rule:
        raise yaml.composer.ComposerError(None, None, f"must be no larger than a configuration, got {got}", mark)


def load_yaml(text: str) -> Any:
    """Read YAML; what YAML 1.1 takes for an integer of another base is text.

    Raises:
        yaml.YAMLError: It is none, a key is given twice, or it is nested or repeated beyond any configuration.

    Example:
        >>> load_yaml("{4:3, 010: 1, 12: null}")
        {'4:3': None, '010': 1, 12: None}
    """
    return yaml.load(text, _Loader)
