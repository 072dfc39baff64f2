"""Where `twistd regiond` and `regionctl` begin.

The packages of both daemons are one distribution, and a cluster controller installs it without the region's
dependencies (`hostmap[cluster]`). There these two say in one line what is missing instead of showing a traceback.
"""

from importlib import import_module
from typing import Any

_OURS = ("clusterd", "regiond", "twisted")


def regionctl() -> None:
    """The command regionctl."""
    _import("regionctl", "regiond.ctl.main").main()


def __getattr__(name: str) -> Any:
    """`Options` and `makeService`, which twistd asks the plugin's module for."""
    if name in ("Options", "makeService"):
        return getattr(_import("twistd regiond", "regiond.service"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _import(program: str, module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _OURS:
            raise
        raise SystemExit(
            f"{program}: the package {error.name} is not installed; the region needs: pip install 'hostmap[region]'"
        ) from None
