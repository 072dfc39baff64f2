"""With which parameters a hosts database is reached, and what is not ours in it."""

from collections.abc import Mapping, Sequence
from typing import Any

from clusterd.daemon.config_file import ConfigError, read_secret
from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.host_system import RunInThread
from clusterd.dhcp.kea.configuration import HostsDatabase
from clusterd.dhcp.kea.contact import bounded
from clusterd.dhcp.kea.rows import Row
from clusterd.dhcp.kea.settings import KeaSettings
from clusterd.protocol.addresses import Family


class NoAccess(Exception):
    """The message says what is missing."""


def access(settings: KeaSettings, database: HostsDatabase, first: bool) -> Mapping[str, str]:
    """libpq's parameters: clusterd's own where the settings have them, which are for the `first` PostgreSQL there is.

    Raises NoAccess, and BackendError when the file with the password cannot be read.
    """
    if settings.hosts_database is not None and first:
        parameters = {"dsn": settings.hosts_database}
        if settings.hosts_database_password_file is not None:
            try:
                parameters["password"] = read_secret(settings.hosts_database_password_file)
            except ConfigError as error:
                raise BackendError(str(error)) from error
        return parameters
    if set(database.parameters.get("password", "")) == {"*"}:  # later versions of Kea do not tell
        raise NoAccess("it does not tell the password of its hosts database: set hosts_database")
    return database.parameters


class HostsTables:
    """Reads what is not ours in the hosts tables that Kea's configuration names. See `kea.contact.ForeignRows`."""

    def __init__(self, settings: KeaSettings, reactor: Any, run_in_thread: RunInThread) -> None:
        self._settings = settings
        self._reactor = reactor
        self._run_in_thread = run_in_thread

    async def __call__(self, family: Family, database: HostsDatabase, first: bool, /) -> Sequence[Row]:
        """Raises BackendError."""
        try:
            parameters = access(self._settings, database, first)
            from clusterd.dhcp.kea.database import Database
            from clusterd.dhcp.kea.hosts_table import HostsTable
        except NoAccess as error:
            raise BackendError(f"kea-dhcp{family}: {error}") from error
        except ImportError as error:
            raise BackendError(f"{error.name} is not installed (pip install 'hostmap[kea]')") from error
        opened = Database(parameters, self._reactor, self._run_in_thread)
        try:
            return await opened.transact(lambda cursor: bounded(HostsTable(family).foreign_rows(cursor)), keep=False)
        finally:
            await opened.close()
