"""Kea's configuration file with everything it includes, for two things: to know which of clusterd's files it includes,
and to have the running server test the whole before it loads it; pure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clusterd.dhcp.kea.findings import parse


class ConfigFileError(ValueError):
    """A configuration file cannot be read; the message says where and why."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A configuration file, read with everything it includes. `included` are the paths as they are written there."""

    document: dict[str, Any]
    included: frozenset[str]


def read_config_file(path: str, read: Callable[[str], str]) -> ConfigFile:
    """Read a configuration; `read` answers the text of a file and raises OSError. Raises ConfigFileError."""
    included: set[str] = set()

    def text_of(name: str) -> str:
        try:
            return read(name)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigFileError(f"{name} cannot be read by clusterd: {reason}") from error

    def include(name: str) -> str:
        included.add(name)
        return text_of(name)

    text = text_of(path)
    try:
        return ConfigFile(dict(parse(text, include)), frozenset(included))
    except ConfigFileError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigFileError(f"{path} is not what Kea could read: {error}") from error
