"""The frame of every command: options that all share, one-line errors, exit codes."""

import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click

from regiond.client.answers import Refused, Unreachable
from regiond.ctl.client import Client, Target

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3

_DURATION = re.compile(r"([0-9]{1,9})([smhdw]?)")
_UNIT_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Settings:
    """What the options before the noun say."""

    target: Target
    as_json: bool = False

    @property
    def client(self) -> Client:
        return Client(self.target)


class RegionGroup(click.Group):
    """The whole program: what goes wrong is one line on stderr and an exit code that tells what sort it is."""

    def main(  # type: ignore[override]  # click overloads it by standalone_mode, which has no say here
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        extra["standalone_mode"] = False
        try:
            code = super().main(args, prog_name, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(EXIT_USAGE)
        except click.UsageError as error:
            _fail(_usage(error), EXIT_USAGE)
        except click.ClickException as error:
            _fail(error.format_message(), EXIT_USAGE)
        except click.Abort:
            _fail("interrupted", 130)
        except Refused as error:
            _fail(str(error), EXIT_REFUSED)
        except Unreachable as error:
            _fail(str(error), EXIT_UNREACHABLE)
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            # whoever read our output has seen enough; nothing must be flushed into the closed pipe at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EXIT_REFUSED)
        sys.exit(code if isinstance(code, int) else 0)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Lists of commands tell each one's whole first sentence, wrapped; click by itself cuts it off."""
        super().add_command(cmd, name)
        _summarize(cmd)


def _summarize(command: click.Command) -> None:
    sentence, stop, _ = " ".join((command.help or "").partition("\n\n")[0].split()).partition(". ")
    command.short_help = sentence + stop.rstrip()
    if isinstance(command, click.Group):
        for each in command.commands.values():
            _summarize(each)


class Duration(click.ParamType[int]):
    """Seconds, or a number with s, m, h, d or w."""

    name = "duration"

    def __init__(self, least: int) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = _DURATION.fullmatch(str(value))
        if found is None or int(found[1]) < self._least:
            self.fail(f"{value!r} is no duration: write 90s, 15m, 12h, 30d or 4w", param, ctx)
        return int(found[1]) * _UNIT_SECONDS[found[2]]


DURATION = Duration(1)
DURATION_OR_ZERO = Duration(0)

pass_settings = click.make_pass_decorator(Settings)


def json_option(function: F) -> F:
    """`--json` after the command, too."""

    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        settings = context.find_object(Settings)
        if value and settings is not None:
            settings.as_json = True

    return click.option(
        "--json", is_flag=True, expose_value=False, callback=remember, help="Print what the API answered."
    )(function)


def given(**values: Any) -> dict[str, Any]:
    """The values that are there, for a body."""
    return {name: value for name, value in values.items() if value is not None}


def _usage(error: click.UsageError) -> str:
    hint = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
    return error.format_message().rstrip(".") + hint


def _fail(message: str, code: int) -> None:
    line = " ".join(message.split())
    click.echo(f"regionctl: {''.join(c if c.isprintable() else '?' for c in line)}", err=True)
    sys.exit(code)
