"""Configurations from and to YAML and the command line, with types checked and misspelt keys answered.

The dataclasses of config/ are the only description: jsonargparse reads fields, types, defaults and the docstring
under each field from them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import docstring_parser
import yaml
from jsonargparse import ArgumentError, ArgumentParser, get_loader, set_loader

from fpl_fast.trainer.config import DataConfig, RunConfig
from fpl_fast.trainer.config.data import DATA_KINDS
from fpl_fast.trainer.config_words import explain
from fpl_fast.trainer.nearest import nearest
from fpl_fast.trainer.replacing import replacing

__all__ = [
    "config_from_dict",
    "config_to_dict",
    "describe_fields",
    "flatten",
    "load_config",
    "override_config",
    "save_config",
]


_LOAD = get_loader("yaml")


def _load_value(text: str) -> Any:
    """The value of an option; jsonargparse by itself stumbles over one number without a value, as in {11: null}."""
    try:
        return _LOAD(text)
    except TypeError:
        return yaml.safe_load(text)


set_loader("yaml", _load_value, exceptions=(yaml.YAMLError,))


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """The configuration as nested plain values, as YAML holds it; the inverse of ``config_from_dict``."""
    return _plain(dataclasses.asdict(config))


def config_from_dict(values: Mapping[str, Any], *, source: str = "config") -> RunConfig:
    """A configuration from nested plain values; keys that are missing take their defaults.

    Args:
        values: As ``config_to_dict`` writes it; ``data.kind`` chooses the kind of data set.
        source: What error messages call the values, such as a file name.

    Raises:
        ValueError: A key is unknown (the nearest one is named), a value has the wrong type or breaks its rule.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{source}: must hold keys and values, got {'nothing' if values is None else repr(values)}")
    data = values.get("data") or {}
    kind = data.get("kind", "synthetic") if isinstance(data, Mapping) else "synthetic"
    if kind not in DATA_KINDS:
        raise ValueError(f"{source}: data.kind must be one of {', '.join(DATA_KINDS)}, got {kind!r}")
    parser = _parser(RunConfig(data=DATA_KINDS[kind]()))
    keys = _keys(parser)
    for key, value in flatten(values).items():
        if any(known.startswith(f"{key}.") for known in keys):
            raise ValueError(f"{source}: {key} must hold keys and values, got {value!r}")
        if key not in keys:
            raise ValueError(f"{source}: unknown key {key!r}{nearest(key, keys)}")
    try:
        return _to_config(parser.parse_object(_plain(values)).as_dict(), kind)
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"{source}: {explain(str(error), _kinds(kind), flatten(values))}") from None


def load_config(path: str | Path) -> RunConfig:
    """Read a YAML file that ``save_config`` or a person wrote.

    Raises:
        ValueError: The file is missing, no YAML, or no valid configuration.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror}): name a YAML file or one of fpl-fast recipes"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: must be YAML: {_one_line(error)}") from None
    return config_from_dict(values, source=str(path))


def save_config(config: RunConfig, path: str | Path) -> None:
    """Write the whole configuration, defaults included, as YAML, in one replacement."""
    text = yaml.safe_dump(config_to_dict(config), sort_keys=False, default_flow_style=None, width=120)
    with replacing(Path(path)) as file:
        file.write(text.encode())


def override_config(
    config: RunConfig, arguments: Sequence[str], *, prog: str = "fpl-fast", description: str = ""
) -> RunConfig:
    """A configuration changed by command-line arguments such as ``--optim.lr 0.01``; ``--help`` lists and leaves.

    Args:
        config: Where the defaults come from.
        arguments: Options and their values.
        prog: Command that the help shows.
        description: What the help says first.

    Raises:
        ValueError: An argument is unknown (the nearest one is named), or a value has the wrong type or breaks its rule.
    """
    parser = _parser(config, prog, description)
    options = [f"--{key}" for key in _keys(parser)]
    for argument in arguments:
        name = argument.partition("=")[0]
        if argument.startswith("--") and name not in [*options, "--help"]:
            raise ValueError(f"unknown option {name}{nearest(name, options)}")
    try:
        return _to_config(parser.parse_args(list(arguments)).as_dict(), config.data.kind)
    except (ArgumentError, ValueError) as error:
        raise ValueError(explain(str(error), _kinds(config.data.kind), _given(arguments))) from None


def _parser(config: RunConfig, prog: str = "fpl-fast", description: str = "") -> ArgumentParser:
    """A parser with one option for each field, whose defaults are the values of ``config``."""
    parser = ArgumentParser(
        prog=prog,
        usage=f"{prog} [--section.key value ...]",
        description=description,
        exit_on_error=False,
    )
    parser.add_argument("--recipe", type=str, default=config.recipe, help=describe_fields(RunConfig)["recipe"])
    for name in _sections(config.data):
        section = getattr(config, name)
        group = parser.add_argument_group(type(section).__doc__.splitlines()[0].rstrip(".:"))
        docs = describe_fields(type(section))
        for f in dataclasses.fields(section):
            default = getattr(section, f.name)
            group.add_argument(f"--{name}.{f.name}", type=f.type, default=default, help=docs[f.name])
    return parser


def describe_fields(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, on one line."""
    docs = {}
    for base in reversed(cls.__mro__[:-1]):
        for param in docstring_parser.parse_from_object(base).params:
            docs[param.arg_name] = " ".join((param.description or "").split())
    return docs


def _sections(data: DataConfig) -> dict[str, type]:
    """The parts of a RunConfig that are dataclasses themselves."""
    types = {f.name: f.type for f in dataclasses.fields(RunConfig) if f.name != "recipe"}
    return types | {"data": type(data)}


def _kinds(kind: str) -> dict[str, Any]:
    """The type of each setting by its key."""
    sections = _sections(DATA_KINDS[kind]())
    return {"recipe": str} | {
        f"{name}.{f.name}": f.type for name, cls in sections.items() for f in dataclasses.fields(cls)
    }


def _given(arguments: Sequence[str]) -> dict[str, str]:
    """What a command line gives for each setting, by its key."""
    given = {}
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=True):
        name, equals, value = argument.removeprefix("--").partition("=")
        if equals or not following.startswith("--"):
            given[name] = value if equals else following
    return given


def _keys(parser: ArgumentParser) -> list[str]:
    return list(flatten(parser.get_defaults().as_dict()))


def _to_config(values: dict[str, Any], kind: str) -> RunConfig:
    """The dataclasses from values that jsonargparse has checked."""
    sections = _sections(DATA_KINDS[kind]())
    return RunConfig(recipe=values["recipe"], **{name: cls(**values[name]) for name, cls in sections.items()})


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sections and their settings as dotted keys; the value of a setting may be a mapping itself."""
    flat: dict[str, Any] = {}
    for section, value in values.items():
        flat |= {f"{section}.{key}": v for key, v in value.items()} if isinstance(value, Mapping) else {section: value}
    return flat


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
