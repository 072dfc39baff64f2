"""Every metric of ours: its name, kind, meaning and labels. OPERATING.md has them as a table, which a test compares."""

from typing import Final

from clusterd.daemon.metric_families import Family

METRICS: Final = {
    "hostmap_info": Family("gauge", "always 1; the version is a label", ("version",)),
    "hostmap_http_requests": Family(
        "counter", "answered requests, by the template of their path", ("method", "route", "status")
    ),
    "hostmap_http_request_seconds": Family(
        "histogram", "from a request to its answer, time asked for with wait included"
    ),
    "hostmap_http_connections": Family("gauge", "open connections of programs"),
    "hostmap_http_requests_in_flight": Family("gauge", "requests that are being answered"),
    "hostmap_events_followers": Family("gauge", "programs that follow events"),
    "hostmap_claims": Family(
        "counter", "claims by kind: created, existing, repeated, or the type of the problem", ("kind", "outcome")
    ),
    "hostmap_claim_seconds": Family("histogram", "from a claim's turn at the writer's queue to its commit"),
    "hostmap_batch_seconds": Family("histogram", "one transaction of the writer, from its beginning to its commit"),
    "hostmap_batch_mutations": Family("histogram", "how many changes shared one transaction"),
    "hostmap_writer_waiting": Family("gauge", "changes that wait for the next transaction"),
    "hostmap_database_up": Family("gauge", "1 when the database answered this scrape"),
    "hostmap_database_connections": Family("gauge", "connections to the database", ("pool", "state")),
    "hostmap_database_waiting": Family("gauge", "questions that wait for a connection", ("pool",)),
    "hostmap_database_connects": Family("counter", "connections made", ("pool",)),
    "hostmap_database_connect_failures": Family("counter", "attempts to connect that failed", ("pool",)),
    "hostmap_database_connections_lost": Family("counter", "connections that died", ("pool",)),
    "hostmap_database_retries": Family("counter", "questions asked once more after a connection died", ("pool",)),
    "hostmap_database_deadlines": Family("counter", "questions given up because no answer came in time", ("pool",)),
    "hostmap_clusters_connected_here": Family("gauge", "clusters connected to this regiond"),
    "hostmap_clusters": Family(
        "gauge", "clusters of the region: all, connected, pending (something is not applied)", ("state",)
    ),
    "hostmap_deliveries": Family("gauge", "pairs of cluster and subnet: applied, pending or failed", ("state",)),
    "hostmap_delivery_oldest_pending_seconds": Family(
        "gauge", "since the pending delivery that is most behind moved last"
    ),
    "hostmap_host_maps": Family(
        "gauge", "host maps that are pending, or failed (refused by a DHCP server)", ("state",)
    ),
    "hostmap_reactor_stall_seconds": Family("histogram", "how late the reactor was, looked at ten times a second"),
}
