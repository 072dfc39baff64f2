"""Nodes and their own MAC addresses."""

from collections.abc import Sequence

import psycopg2
from psycopg2 import errorcodes

from regiond.domain import errors
from regiond.domain.ids import NewId, Prefix, format_id
from regiond.storage.changes import Change, once, write_audit
from regiond.storage.pool import Pool, Session


class NodeStore:
    """Makes nodes; they are read by `Reads` and deleted, with their addresses, through the writer."""

    def __init__(self, pool: Pool, new_id: NewId) -> None:
        self._pool = pool
        self._new_id = new_id

    async def create(self, change: Change, hostname: str, macs: Sequence[str], owner: int, comment: str | None) -> int:
        """The new node's id, or with a repeated idempotency key the one first made.

        Raises NameTaken for a host name, IdentifierTaken for a MAC address of another node.
        """
        node = self._new_id()

        async def create(session: Session) -> int:
            await session.run(
                "INSERT INTO node (id, hostname, owner, comment) VALUES (%s, %s, %s, %s)",
                (node, hostname, owner, comment),
            )
            await session.run(
                "INSERT INTO node_mac (node, mac) SELECT %s, unnest(%s::text[])", (node, list(dict.fromkeys(macs)))
            )
            after = {"hostname": hostname, "macs": list(macs)}
            await write_audit(session, change, "node.create", format_id(Prefix.NODE, node), None, after)
            return node

        try:
            return await once(self._pool, change, create, "SELECT id FROM node WHERE id = %s", (node,))
        except psycopg2.Error as error:
            if (taken := name_taken(error)) is None:
                raise
            raise taken from error


def name_taken(error: Exception) -> errors.DomainError | None:
    """What a violated unique constraint of the nodes' tables means; None for every other error."""
    if not isinstance(error, psycopg2.Error) or error.pgcode != errorcodes.UNIQUE_VIOLATION:
        return None
    if error.diag.constraint_name == "node_mac_pkey":
        return errors.IdentifierTaken("one of these MAC addresses is another node's")
    if error.diag.constraint_name == "node_hostname_key":
        return errors.NameTaken("another node has this host name already")
    return None
