"""The command-line options that both daemons have, and which log form they start with."""

import sys
from pathlib import Path
from typing import ClassVar, TypeVar

from pydantic import BaseModel
from twisted.logger import jsonFileLogObserver, textFileLogObserver
from twisted.python.usage import Options

from clusterd.daemon.config_file import ConfigError, load, validate
from clusterd.daemon.json_logs import JsonLogObserver
from clusterd.daemon.text_logs import TextLogObserver

M = TypeVar("M", bound=BaseModel)

JSON_LOGGER = "clusterd.daemon.json_logs.json_observer"
TEXT_LOGGER = "clusterd.daemon.text_logs.text_observer"


class DaemonOptions(Options):
    """`--config FILE`, and structured logs unless the caller of twistd chose others.

    Logs go to standard output: JSON, or the readable form when that is a terminal. `--logger`, `--logfile` and
    `--syslog` are left alone, and so is a twistd that puts itself into the background, where nobody would ever
    see standard output.
    """

    optParameters: ClassVar[list[list[object]]] = [
        ["config", "c", None, "TOML file with the daemon's settings; without it, every default"]
    ]

    def postOptions(self) -> None:
        super().postOptions()
        parent: dict[str, object] | None = getattr(self, "parent", None)
        if parent is not None:
            choose_logs(parent, terminal=sys.stdout.isatty())

    def settings(self, model: type[M]) -> M:
        """The settings of the file given as `--config`, or the model's defaults without one.

        A configuration that cannot be used ends the process: its mistakes go to standard error, one a line.
        """
        path = self["config"]
        try:
            if path is None:
                return validate({}, model, "no --config given")
            return load(Path(path), model)
        except ConfigError as error:
            raise SystemExit(str(error)) from None


def choose_logs(parent: dict[str, object], *, terminal: bool) -> None:
    """Set twistd's log form in its own options, while they are still being parsed."""
    if "fileLogObserverFactory" in parent:  # `python -m twisted`, which has its own form of each kind
        ours = {jsonFileLogObserver: JsonLogObserver, textFileLogObserver: TextLogObserver}
        chosen = parent["fileLogObserverFactory"]
        parent["fileLogObserverFactory"] = ours.get(chosen, chosen)  # type: ignore[call-overload]
        return
    if any(parent.get(option) for option in ("logger", "logfile", "syslog")):
        return
    if parent.get("nodaemon") or parent.get("debug"):
        parent["logger"] = TEXT_LOGGER if terminal else JSON_LOGGER
