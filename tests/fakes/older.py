"""A cluster whose clusterd is of the version before recoveries."""

from typing import Any

from clusterd.protocol import commands
from tests.fakes.cluster import FakeCluster

_UPLOADS = (commands.UploadHostMaps.commandName, commands.UploadFormerHostMaps.commandName)


class OlderCluster(FakeCluster):
    """It knows no `UploadHostMaps`, and its registration says neither region, nor instance, nor what it reports."""

    def locateResponder(self, name: bytes) -> Any:
        return None if name in _UPLOADS else super().locateResponder(name)


class LessOldCluster(FakeCluster):
    """It hands up what it holds, and knows no `UploadFormerHostMaps`."""

    def locateResponder(self, name: bytes) -> Any:
        return None if name == commands.UploadFormerHostMaps.commandName else super().locateResponder(name)
