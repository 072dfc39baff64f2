"""`python3 -m clusterd join …`; the daemon itself is `twistd clusterd`."""

import sys

from clusterd.join import main

if __name__ == "__main__":
    if sys.argv[1:2] != ["join"]:
        sys.exit("usage: python3 -m clusterd join ADDRESS FINGERPRINT   (the daemon itself is `twistd clusterd`)")
    main(sys.argv[2:])
