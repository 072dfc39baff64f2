"""Every route there is."""

from regiond.http import devices, health, networks, nodes, reservations, users
from regiond.http.routing import Route

ROUTES: tuple[Route, ...] = (
    *devices.ROUTES,
    *nodes.ROUTES,
    *reservations.ROUTES,
    *networks.ROUTES,
    *users.ROUTES,
    *health.ROUTES,
)
