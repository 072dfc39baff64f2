"""What the daemon says of itself."""

from typing import Literal

from regiond.http.shapes.values import Shape


class Health(Shape):
    status: Literal["ok", "ready"]
