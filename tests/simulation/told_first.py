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
    "a late snapshot on a former connection brings nothing back of a subnet that was forgotten": (
        "hold 0; pair 0; claim 0 1 0; calm 0; unserve 0 0; pass 3 100 0; calm 0; release 0 0; calm 0; pass 2 100 0;"
        "cut 0 0 0 1 1; pass 20 100 0; late-on-former-connection 0 0 1 1; calm 0"
    ),
    "a late difference on a former connection brings nothing back of a subnet that was forgotten": (
        "hold 0; pair 0; claim 0 1 0; calm 0; unserve 0 0; pass 3 100 0; calm 0; release 0 0; calm 0; pass 2 100 0;"
        "cut 0 0 0 1 1; pass 20 100 0; late-on-former-connection 0 0 1 0; calm 0"
    ),
    "a difference that has not the announced digest is not stored": (
        "hold 0; pair 0; claim 0 1 0; calm 0; stall-network 0 1; claim 0 2 0; calm 0; lossy-difference 0 0; calm 0"
    ),
    "an address that nobody serves any more rests, too": (
        "hold 30; pair 0; claim 0 1 0; calm 0; unserve 0 0; pass 3 100 0; calm 0; release 0 0; calm 0"
    ),
    "an address is not free while one of two clusters serves it": (
        "hold 0; pair 1; claim 0 1 0; pass 3 100 0; calm 0; slow-server 1 1; release 0 0; calm 0; pass 2 100 0; calm 0"
    ),
    "what was accepted when clusterd died is applied before anything later is": (
        "hold 0; pair 0; claim 0 1 0; calm 0; slow-server 0 1; claim 0 2 0; calm 0; restart-cluster 0;"
        "slow-server 0 0; pass 2 200 0; calm 0; claim 0 3 0; calm 0"
    ),
    "a removal that the server refused is not applied": (
        "hold 0; pair 0; claim 0 1 0; calm 0; reject 0 1 1; release 0 0; calm 0; pass 2 100 0"
    ),
    "what was not compared because of an error is not applied": (
        "hold 0; pair 0; claim 0 1 0; calm 0; refuse 0 1; claim 0 2 0; calm 0; restart-cluster 0; pass 2 100 0; calm 0"
    ),
    "what changed while the region was away is told when it comes back": (
        "hold 0; pair 0; reject 0 1 0; claim 0 1 0; calm 0; partition 0 1; heal-server 0; pass 70 5 0; pass 70 5 0;"
        "pass 70 5 0; pass 70 5 0; pass 70 5 0; calm 0; partition 0 0; pass 20 100 0"
    ),
    "a cluster with an old disk is given what it lost": (
        "hold 0; pair 0; save-disk 0; claim 0 1 0; calm 0; old-disk 0; pass 5 100 0; calm 0"
    ),
    "what could not be stored is sent again": (
        "hold 0; pair 0; claim 0 1 0; calm 0; full-disk 0 1; claim 0 2 0; calm 0; full-disk 0 0; calm 0"
    ),
    "interfaces that were reported on a former connection do not replace those of today": (
        "hold 0; pair 0; slow-topologies 0 1; networks 0 1; pass 2 100 0; calm 0; cut 0 0 0 1 1; networks 0 3;"
        "pass 20 100 0; calm 0; slow-topologies 0 0; calm 0"
    ),
    "an address of two identifiers is not taken back by one of them": (
        "hold 30; pair 0; claim-for-two 0 1; calm 0; release 0 0; calm 0; claim 0 1 0; calm 0"
    ),
    "a lease that is left when clusterd dies between the removal and its end is ended": (
        "hold 0; pair 0; claim 0 1 0; claim 0 2 0; calm 0; slow-server 0 1; release 0 0; calm 0; let-server 0 1;"
        "restart-cluster 0; pass 2 200 0; slow-server 0 0; calm 0"
    ),
    "what a cluster serves and the backup does not know is reserved again": (
        "hold 0; pair 0; claim 0 1 0; calm 0; save-region; pass 3 100 0; claim 0 2 0; calm 0; restore-region;"
        "pass 20 100 0; claim 0 3 0; calm 0; release 0 1; calm 0"
    ),
    "an address that was handed on in the lost past stays with whom a cluster serves": (
        "hold 0; pair 1; claim 0 1 1; pass 3 100 0; calm 0; save-region; pass 3 100 0; release 0 0; pass 3 100 0;"
        "claim 0 2 1; pass 3 100 0; calm 0; restore-region; pass 20 100 0; claim 0 3 1; calm 0"
    ),
    "nothing is settled before every holder was heard": (
        "hold 0; pair 1; calm 0; save-region; pass 3 100 0; slow-server 1 1; claim 0 2 1; calm 0; partition 1 1;"
        "release 0 0; pass 3 100 0; calm 0; restore-region; pass 20 100 0; claim 0 3 1; calm 0; partition 1 0"
    ),
    "who began to serve a subnet after the backup is heard before that is settled": (
        "hold 0; pair 0; calm 0; save-region; pass 3 100 0; confirm-pair; unserve 0 0; pass 5 100 0; calm 0;"
        "claim 0 1 1; pass 3 100 0; calm 0; partition 1 1; restore-region; pass 20 100 0; claim 0 2 1; calm 0;"
        "pass 20 100 0"
    ),
    "what is of an older past than most of a cluster's is heard, too": (
        "hold 0; pair 0; claim 0 0 0; save-region; pass 3 100 0; claim 0 0 0; pass 3 100 0; restore-region;"
        "claim 0 0 0; pass 3 100 0; restore-region"
    ),
    "an address whose removal is accepted and not done is not free after a restore": (
        "hold 0; pair 0; save-region; pass 3 100 0; claim 0 1 1; pass 3 100 0; calm 0; slow-server 0 1; release 0 0;"
        "calm 0; restore-region; pass 20 100 0; claim 0 2 1; calm 0; slow-server 0 0; calm 0"
    ),
    "an address of a subnet that is being forgotten is not free after a restore": (
        "hold 0; pair 0; save-region; pass 3 100 0; claim 0 1 1; pass 3 100 0; calm 0; slow-server 0 1; unserve 0 0;"
        "pass 3 100 0; calm 0; restore-region; pass 20 100 0; claim 0 2 1; calm 0; slow-server 0 0; calm 0"
    ),
    "whom the backup knows at an address that was handed on and is being removed is displaced": (
        "hold 0; pair 0; claim 0 1 1; calm 0; pass 2 100 0; save-region; pass 3 100 0; release 0 0; pass 3 100 0;"
        "calm 0; claim 0 2 1; pass 3 100 0; calm 0; slow-server 0 1; release 0 0; calm 0; restore-region;"
        "pass 20 100 0; calm 0; slow-server 0 0; calm 0"
    ),
    "who holds an address since a cluster's old disk was made keeps it when all are heard": (
        "hold 0; pair 0; claim 0 1 0; calm 0; pass 2 100 0; save-disk 0; release 0 0; pass 3 100 0; calm 0; reserve 0;"
        "calm 0; pass 3 100 0; save-region; pass 3 100 0; claim 0 3 3; pass 3 100 0; old-disk 0; restore-region;"
        "pass 20 100 0; calm 0"
    ),
    "what rested when the backup was made and was taken back and released since rests anew": (
        "hold 30; pair 0; claim 0 1 1; calm 0; release 0 0; calm 0; pass 2 100 0; save-region; pass 3 100 0;"
        "claim 0 1 1; pass 3 100 0; calm 0; slow-server 0 1; release 0 0; calm 0; restore-region; pass 45 100 0;"
        "calm 0; slow-server 0 0; calm 0"
    ),
    "what is lost between two beats of the witness is heard of the clusters": (
        "hold 0; pair 0; claim 0 1 1; calm 0; save-region; claim 0 2 2; calm 0; restore-region; pass 20 100 0;"
        "claim 0 3 2; calm 0; release 0 0; calm 0"
    ),
    "who comes after the wait for it was ended is heard late": (
        "hold 0; pair 1; calm 0; save-region; pass 3 100 0; claim 0 2 1; pass 3 100 0; calm 0; partition 1 1;"
        "restore-region; pass 20 100 0; calm 0; end-recovery; pass 3 100 0; claim 0 3 1; calm 0; partition 1 0"
    ),
    "a backup of the middle of a recovery is noticed, too": (
        "hold 0; pair 0; claim 0 0 0; save-region; pass 3 100 0; confirm-pair; pass 3 100 0; restore-region;"
        "restart-cluster 0; pass 3 100 0; save-region; pass 3 100 0; claim 0 0 0; pass 3 100 0; restore-region;"
        "claim 0 0 0; pass 3 100 0"
    ),
    "a cluster that was heard, has nothing and comes again does not hold the recovery up": (
        "hold 0; pair 0; claim 0 0 0; save-region; pass 3 100 0; confirm-pair; pass 3 100 0; restore-region;"
        "claim 0 0 0; pass 3 100 0; pass 3 100 0; save-region; pass 3 100 0; partition 0 1; pass 3 100 0;"
        "restore-region; claim 0 0 0; pass 3 100 0; pass 3 100 0; kill-cluster 1"
    ),
    "a backup of the midst of a recovery is restored while that goes on": (
        "hold 0; pair 0; claim 0 0 0; save-region; pass 3 100 0; release 0 0; pass 3 100 0; restore-region;"
        "partition 0 1; pass 3 100 0; pass 3 100 0; save-region; claim 0 0 0; restore-region; claim 0 0 0;"
        "pass 3 100 0; pass 3 100 0"
    ),
}

# Somewhere in these the database is away when what the cluster hands up is to be kept, or that it was heard.
TOLD_FIRST.update(
    {
        f"a cluster is heard though the database was away for a moment, {after} questions later": (
            "hold 0; pair 0; claim 0 1 1; calm 0; save-region; pass 3 100 0; claim 0 2 2; calm 0; partition 0 1;"
            f"restore-region; pass 3 100 0; calm 0; partition 0 0; database-fails {after} 1; pass 20 100 0; calm 0;"
            "claim 0 3 2; calm 0"
        )
        for after in range(10, 32)
    }
)
