"""Stories that are told before any others: those that once went wrong, and those that a rule is there for."""

TOLD_FIRST = {
    "a host map that came during a comparison and went before its end does not stay in the server": (
        "hold 0; pair 0; claim 0 2 0; calm 0; slow-server 0 1; restart-cluster 0; pass 2 200 0; calm 0; claim 0 1 0;"
        "calm 0; let-server 0 2; release 0 0; calm 0; slow-server 0 0; calm 0"
    ),
    "what a cluster reports as applied is accepted, too": (
        "hold 0; pair 0; slow-thread 0 1; claim 0 0 0; claim 0 0 0; pass 20 5 0"
    ),
    "a late snapshot brings nothing back": (
        "hold 0; pair 0; claim 0 1 0; calm 0; release 0 0; calm 0; pass 2 100 0; late-snapshot 0 0 1; calm 0"
    ),
    "a late difference brings nothing back": (
        "hold 0; pair 0; claim 0 1 0; calm 0; release 0 0; calm 0; pass 2 100 0; late-difference 0 0 1; calm 0"
    ),
}
