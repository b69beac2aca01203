"""Configurations from and to YAML and the command line, with checked types and suggestions for misspelt keys.

The dataclasses of config/ are the only description: jsonargparse reads fields, types, defaults and the docstring
under each field from them.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import docstring_parser
import yaml
from jsonargparse import ArgumentError, ArgumentParser, get_loader, set_loader

from fpl_fast.trainer.config import RunConfig
from fpl_fast.trainer.config.data import DATA_KINDS
from fpl_fast.trainer.config.nearest import nearest
from fpl_fast.trainer.config.plain_yaml import load_yaml
from fpl_fast.trainer.config.words import explain
from fpl_fast.trainer.methods import METHODS
from fpl_fast.trainer.writing.replacing import replacing

__all__ = [
    "config_from_dict",
    "config_to_dict",
    "describe_fields",
    "flatten",
    "load_config",
    "override_config",
    "save_config",
]


# Early runs had one class for the settings of all methods, and wrote all of them.
_WRITTEN_BY_EARLY_RUNS = {"cutmix", "partner", "ema_decay", "bank_momentum", "paste_draws", "donor_lead", "threshold"}

_LOAD = get_loader("yaml")


def _load_value(text: str) -> Any:
    """Parse the value of an option; maps by ``load_yaml``, as jsonargparse fails on a single number as a key."""
    return load_yaml(text) if text.lstrip().startswith("{") else _LOAD(text)


set_loader("yaml", _load_value, exceptions=(yaml.YAMLError,))


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """Convert a configuration to nested plain values, as YAML holds it; the inverse of ``config_from_dict``."""
    return _plain(dataclasses.asdict(config))


def config_from_dict(values: Mapping[str, Any], *, source: str = "config") -> RunConfig:
    """Build a configuration from nested plain values; missing keys take their defaults.

    Args:
        values: As ``config_to_dict`` writes it; ``data.kind`` chooses the kind of data set, ``method.name`` the method.
        source: Name of the values in error messages, such as a file name.

    Raises:
        ValueError: A key is unknown (the nearest one is named), a value has the wrong type or breaks its rule.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{source}: must hold keys and values, got {'nothing' if values is None else repr(values)}")
    kind = _chosen(values, "data", "kind", "synthetic", DATA_KINDS, source)
    name = _chosen(values, "method", "name", "cps", METHODS, source)
    values = _without_foreign_settings(values, name)
    defaults, parser = _defaults(DATA_KINDS[kind], METHODS[name].Config)  # type: ignore[arg-type]  # classes, hashable
    keys = list(_kinds(defaults))
    for key, value in flatten(values).items():
        if any(known.startswith(f"{key}.") for known in keys):
            raise ValueError(f"{source}: {key} must hold keys and values, got {value!r}")
        if key not in keys:
            advice = _of_another_method(str(key), name) or nearest(str(key), keys)
            raise ValueError(f"{source}: unknown key {key!r}{advice}")
    try:
        return _changed(defaults, parser.parse_object(_plain(values), defaults=False).as_dict())
    except (ArgumentError, ValueError) as error:
        raise ValueError(f"{source}: {explain(str(error), _kinds(defaults), flatten(values))}") from None


def load_config(path: str | Path) -> RunConfig:
    """Read a YAML file that ``save_config`` or a person wrote.

    Raises:
        ValueError: The file is missing, no YAML, or no valid configuration.
    """
    try:
        values = load_yaml(Path(path).read_text(encoding="utf-8"))
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
    """Change a configuration by command-line arguments such as ``--optim.lr 0.01``; ``--help`` lists them and exits.

    Args:
        config: Source of the defaults.
        arguments: Options and their values.
        prog: Command that the help shows.
        description: First text of the help.

    Raises:
        ValueError: An argument is unknown (the nearest one is named), or a value has the wrong type or breaks its rule.
    """
    parser = _parser(config, prog, description)
    options = [f"--{key}" for key in _kinds(config)]
    for argument in arguments:
        name = argument.partition("=")[0]
        if argument.startswith("--") and name not in [*options, "--help"]:
            other = _of_another_method(name.removeprefix("--"), config.method.name)
            raise ValueError(f"unknown option {name}{other or nearest(name, options)}")
    try:
        return _changed(config, parser.parse_args(list(arguments), defaults=False).as_dict())
    except (ArgumentError, ValueError) as error:
        raise ValueError(explain(str(error), _kinds(config), _given(arguments))) from None


@functools.cache
def _defaults(data: type, method: type) -> tuple[RunConfig, ArgumentParser]:
    """Build the defaults of a kind of data and a method, and their parser; a study reads hundreds of configurations."""
    config = RunConfig(data=_section(data), method=_section(method))
    return config, _parser(config)


def _parser(config: RunConfig, prog: str = "fpl-fast", description: str = "") -> ArgumentParser:
    """Build a parser with one option for each field, whose defaults are the values of ``config``."""
    parser = ArgumentParser(
        prog=prog,
        usage=f"{prog} [--section.key value ...]",
        description=description,
        exit_on_error=False,
    )
    parser.add_argument("--recipe", type=str, default=config.recipe, help=describe_fields(RunConfig)["recipe"])
    for name in _sections(config):
        section = getattr(config, name)
        group = parser.add_argument_group((type(section).__doc__ or "").splitlines()[0].rstrip(".:"))
        docs = describe_fields(type(section))  # type: ignore[arg-type]  # classes, hashable
        for f in dataclasses.fields(section):
            default = getattr(section, f.name)
            group.add_argument(f"--{name}.{f.name}", type=f.type, default=default, help=docs[f.name])
    return parser


@functools.cache
def describe_fields(cls: type) -> dict[str, str]:
    """Read the docstring under each field of a dataclass, on one line."""
    docs = {}
    for base in reversed(cls.__mro__[:-1]):
        for param in docstring_parser.parse_from_object(base).params:
            docs[param.arg_name] = " ".join((param.description or "").split())
    return docs


def _sections(config: RunConfig) -> dict[str, Any]:
    """Classes of the sections of a configuration, by name."""
    return {f.name: type(getattr(config, f.name)) for f in dataclasses.fields(config) if f.name != "recipe"}


def _section(cls: Any) -> Any:
    """A section with its defaults."""
    return cls()


def _chosen(values: Mapping[str, Any], section: str, key: str, default: str, known: Iterable[str], source: str) -> str:
    """Read the setting that chooses the class of a section."""
    given = values.get(section) or {}
    chosen = given.get(key, default) if isinstance(given, Mapping) else default
    if not isinstance(chosen, str) or chosen not in known:
        raise ValueError(f"{source}: {section}.{key} must be one of {', '.join(known)}, got {chosen!r}")
    return chosen


def _settings(name: str) -> set[str]:
    """Names of a method's settings."""
    return {f.name for f in dataclasses.fields(METHODS[name].Config)}


def _of_another_method(key: str, name: str) -> str:
    """Ending of the error about a setting that belongs to other methods."""
    section, _, setting = key.partition(".")
    others = [other for other in METHODS if section == "method" and setting in _settings(other)]
    return f": a setting of {', '.join(others)}, not of {name}" if others else ""


def _without_foreign_settings(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Drop the settings of other methods from values that hold the settings of all, as early runs wrote them."""
    given = values.get("method")
    if not isinstance(given, Mapping) or not given.keys() >= _WRITTEN_BY_EARLY_RUNS:
        return values
    foreign = set().union(*map(_settings, METHODS)) - _settings(name)
    return {**values, "method": {key: value for key, value in given.items() if key not in foreign}}


def _kinds(config: RunConfig) -> dict[str, Any]:
    """Type of each setting, by its key."""
    sections = _sections(config)
    return {"recipe": str} | {
        f"{name}.{f.name}": f.type for name, cls in sections.items() for f in dataclasses.fields(cls)
    }


def _given(arguments: Sequence[str]) -> dict[str, str]:
    """Texts that a command line gives for settings, by key."""
    given = {}
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=True):
        name, equals, value = argument.removeprefix("--").partition("=")
        if equals or not following.startswith("--"):
            given[name] = value if equals else following
    return given


def _changed(config: RunConfig, given: Mapping[str, Any]) -> RunConfig:
    """Change what is given, and has been checked by jsonargparse: with its defaults it would check all settings."""
    changes = {
        name: dataclasses.replace(getattr(config, name), **value) if isinstance(value, Mapping) else value
        for name, value in given.items()
    }
    return dataclasses.replace(config, **changes)


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten sections and their settings to dotted keys; the value of a setting may be a mapping itself."""
    flat: dict[str, Any] = {}
    for section, value in values.items():
        flat |= {f"{section}.{key}": v for key, v in value.items()} if isinstance(value, Mapping) else {section: value}
    return flat


def _plain(value: Any) -> Any:
    """Convert tuples to lists, for YAML."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
