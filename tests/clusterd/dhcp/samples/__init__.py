"""Configurations of DHCP servers in use, as text; `put` writes them where their own includes find each other."""

from pathlib import Path

from clusterd.dhcp.first_contact import ServerPicture

SAMPLES = Path(__file__).parent


def put(name: str, directory: Path, to: str | None = None) -> Path:
    """A sample as a file of `directory`, whose path stands for `@DIRECTORY@` in it."""
    path = directory / (to or name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((SAMPLES / name).read_text().replace("@DIRECTORY@", str(directory)))
    return path


def pools(picture: ServerPicture) -> set[tuple[str, str]]:
    """The ends of the pools that were found."""
    return {(pool.low, pool.high) for pool in picture.pools}


def entries(picture: ServerPicture) -> dict[str, tuple[set[str], str | None]]:
    """Address → identifiers and host name of the static entries that were found."""
    return {e.address: ({str(i) for i in e.identifiers}, e.hostname) for e in picture.entries}
