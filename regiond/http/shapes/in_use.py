"""What marks of addresses that somebody uses look like."""

from typing import Annotated

from pydantic import Field

from regiond.http.shapes.values import Address, AddressInUseId, Mac, Moment, Shape, SubnetId


class AddressInUse(Shape):
    """Somebody on the wire uses this address without a reservation: nobody is given it until the mark expires."""

    id: AddressInUseId
    subnet: SubnetId
    address: Address
    mac: Annotated[Mac | None, Field(description="who answered last; for admins")]
    cluster: Annotated[str, Field(description="the name of the cluster that saw it last")]
    since: Moment
    seen_at: Moment
    expires_at: Moment
