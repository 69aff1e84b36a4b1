"""Settles the settings: defaults, then a TOML file, then the environment, then flags; knows where each came from."""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from actors.models.registry import Registry
from bus.address import masked
from infra.errors import InfraError
from infra.settings import (
    A2ASettings,
    AccessSettings,
    BatchSettings,
    EngineSettings,
    LimitSettings,
    McpSettings,
    ModelSettings,
    PoolingSettings,
    PrivacySettings,
    Settings,
    TelemetrySettings,
)

FILE = "ostinato.toml"
FILE_VARIABLE = "OSTINATO_CONFIG"
_PREFIX = "OSTINATO_"
_DEFAULT = "default"
_ADDRESSES = {"nats", "postgres"}
"""Settings that may hold a password."""
_SECRET = "privacy.master_key"
_GROUPS: Mapping[str, Any] = {
    "engine": EngineSettings,
    "models": ModelSettings,
    "access": AccessSettings,
    "limits": LimitSettings,
    "pooling": PoolingSettings,
    "batches": BatchSettings,
    "a2a": A2ASettings,
    "mcp": McpSettings,
    "privacy": PrivacySettings,
    "telemetry": TelemetrySettings,
}
"""Settings that belong to one component, by the beginning of their keys."""
_LISTS = {
    "agents",
    "access.origins",
    "access.hosts",
    "access.algorithms",
    "a2a.push_hosts",
    "mcp.tools",
    "mcp.services",
}
"""Settings that a variable gives parted by commas."""
_STRUCTURED = {"engine.adapters", "models.providers", "models.chains", "models.budgets", "models.prices"}


class ConfigurationWrong(InfraError):
    """A file or variable names a setting that does not exist, or gives it a value it cannot have."""

    def __init__(self, key: str, origin: str, problem: str) -> None:
        super().__init__(f"{origin}: {problem}")
        self.key = key
        self.origin = origin


@dataclass(frozen=True, slots=True)
class Value:
    """One setting as settled."""

    value: object
    origin: str
    """`default`, `FILE:KEY`, an environment variable, or a flag."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """Every setting by its dotted key, in the order of the structs."""

    values: Mapping[str, Value]

    @property
    def settings(self) -> Settings:
        """The settings as the stack takes them."""
        plain = {key: item.value for key, item in self.values.items()}
        groups: dict[str, Any] = {name: shape(**_below(plain, f"{name}.")) for name, shape in _GROUPS.items()}
        return Settings(**{key: value for key, value in plain.items() if "." not in key}, **groups)  # type: ignore[arg-type]


def configure(
    flags: Mapping[str, object],
    file: str | None,
    environment: Mapping[str, str],
    defaults: Mapping[str, object] | None = None,
) -> Configuration:
    """Settle every setting.

    Args:
        flags: what the command line gave, by dotted key.
        file: the file named with `--config`; None takes the environment's, else `ostinato.toml` if there is one.
        environment: the process's variables.
        defaults: what a command takes in place of the structs' defaults, by dotted key.

    Raises:
        ConfigurationWrong: one line names the key, where it stands, and what would be right.
    """
    values = {key: Value(default, _DEFAULT) for key, default in _defaults().items()}
    values |= {key: Value(value, _DEFAULT) for key, value in (defaults or {}).items()}
    values |= _from_file(file, environment)
    values |= _from_environment(environment)
    values |= {key: Value(value, _flag(key)) for key, value in flags.items()}
    model = values["engine.model"]
    if model.origin != _DEFAULT and values["engine.name"].origin == _DEFAULT:
        values["engine.name"] = Value(Path(str(model.value)).name, model.origin)
    return Configuration(values)


def _below(plain: Mapping[str, object], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in plain.items() if key.startswith(prefix)}


def _defaults() -> dict[str, object]:
    whole = Settings()
    plain: dict[str, object] = {name: getattr(whole, name) for name in whole.__struct_fields__ if name not in _GROUPS}
    groups = {group: getattr(whole, group) for group in _GROUPS}
    below = {
        f"{group}.{name}": getattr(part, name) for group, part in groups.items() for name in part.__struct_fields__
    }
    return plain | below


def _types() -> dict[str, Any]:
    found: dict[str, Any] = dict(get_type_hints(Settings, include_extras=True))
    for group, shape in _GROUPS.items():
        found |= {f"{group}.{name}": kind for name, kind in get_type_hints(shape, include_extras=True).items()}
    return found


def _flag(key: str) -> str:
    spelled = {"engine.name": "model-name"}.get(key, key.removeprefix("engine."))
    return "--" + spelled.replace("_", "-")


def _variable(key: str) -> str:
    return _PREFIX + key.replace(".", "_").upper()


def _from_file(named: str | None, environment: Mapping[str, str]) -> dict[str, Value]:
    asked = named or environment.get(FILE_VARIABLE)
    path = Path(asked or FILE)
    if asked is None and not path.exists():
        return {}
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"the configuration file cannot be read ({error.strerror}): name another with --config"
        raise ConfigurationWrong("", str(path), problem) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationWrong("", str(path), f"this is no TOML: {error}") from error
    values = {}
    for key, value in _leaves(tree):
        origin = f"{path}:{key}"
        if key not in _defaults():
            raise ConfigurationWrong(key, str(path), f"there is no setting {key!r}{_nearest(key, _defaults())}")
        values[key] = Value(_converted(key, value, origin, strict=True), origin)
    return values


def _leaves(tree: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if key in _GROUPS and isinstance(value, dict):
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            yield key, value


def _from_environment(environment: Mapping[str, str]) -> dict[str, Value]:
    keys = {_variable(key): key for key in _defaults()}
    values = {}
    for name in sorted(environment):
        if not name.startswith(_PREFIX) or name == FILE_VARIABLE:
            continue
        key = keys.get(name)
        if key is None:
            _refuse_if_mistyped(name, keys)
            continue
        origin = f"environment variable {name}"
        spelled = _spelled(key, environment[name], origin)
        values[key] = Value(_converted(key, spelled, origin, strict=False), name)
    return values


def _spelled(key: str, text: str, origin: str) -> object:
    """Read a variable's text: a list is parted by commas, what has more to it is JSON.

    Raises:
        ConfigurationWrong: JSON names something twice, of which one would be lost.
    """

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        for name, value in pairs:
            if found[name] is not value:
                raise ConfigurationWrong(key, origin, f"{key!r}: {name!r} is given twice: leave one out, or rename it")
        return found

    if key in _LISTS:
        return [item for item in text.split(",") if item]
    if key not in _STRUCTURED:
        return text
    try:
        return json.loads(text, object_pairs_hook=once)
    except (json.JSONDecodeError, RecursionError):
        return text


def _refuse_if_mistyped(name: str, known: Mapping[str, str]) -> None:
    """Refuse a variable whose name is nearly one of ours; others belong to somebody else's program."""
    ours = [variable.removeprefix(_PREFIX) for variable in known]
    near = difflib.get_close_matches(name.removeprefix(_PREFIX), ours, n=1, cutoff=0.7)
    if near:
        problem = f"there is no setting of this name: did you mean {_PREFIX + near[0]!r}?"
        raise ConfigurationWrong(name, f"environment variable {name}", problem)


def _converted(key: str, value: object, origin: str, *, strict: bool) -> object:
    try:
        converted = msgspec.convert(value, _types()[key], strict=strict)
        if key == "models.providers":
            Registry.load(converted)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigurationWrong(key, origin, f"{key!r} cannot be {shown(key, value)!r}: {error}") from error
    return converted


def shown(key: str, value: object) -> object:
    """Return a setting's value as it may be shown: without passwords."""
    if key == _SECRET and value:
        return "***"
    if key not in _ADDRESSES:
        return value
    return masked(value if isinstance(value, str) else repr(value))


def _nearest(name: str, known: Mapping[str, object]) -> str:
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    inner = difflib.get_close_matches(f"engine.{name}", known, n=1, cutoff=0.8)
    best = inner or found
    return f": did you mean {best[0]!r}?" if best else ": `ostinato config show` lists them"


def data_directory(named: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """Give the data directory that a command without other settings works on.

    Raises:
        ConfigurationWrong: a file or variable is wrong.
    """
    return configure({} if named is None else {"data": named}, None, environment).settings.data
