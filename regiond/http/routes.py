"""Every route there is."""

from regiond.http import (
    adoption,
    audit,
    batch,
    cluster_edits,
    devices,
    documentation,
    events,
    groups,
    health,
    imports,
    in_use,
    leases,
    metrics,
    networks,
    nodes,
    pairs,
    recovery,
    reservations,
    subnets,
    topology,
    users,
    vrfs,
)
from regiond.http.routing import Route

_NOUNS: tuple[Route, ...] = (
    *devices.ROUTES,
    *nodes.ROUTES,
    *reservations.ROUTES,
    *groups.ROUTES,
    *batch.ROUTES,
    *imports.ROUTES,
    *networks.ROUTES,
    *cluster_edits.ROUTES,
    *subnets.ROUTES,
    *leases.ROUTES,
    *pairs.ROUTES,
    *topology.ROUTES,
    *vrfs.ROUTES,
    *in_use.ROUTES,
    *adoption.ROUTES,
    *users.ROUTES,
    *audit.ROUTES,
    *events.ROUTES,
    *recovery.ROUTES,
    *health.ROUTES,
    *metrics.ROUTES,
)

ROUTES: tuple[Route, ...] = (*_NOUNS, *documentation.routes_for(_NOUNS))
