"""`python3 -m clusterd join …` and `… dhcp-config …`; the daemon itself is `twistd clusterd`."""

import sys

if __name__ == "__main__":
    command, arguments = sys.argv[1:2], sys.argv[2:]
    if command == ["join"]:
        from clusterd.region_link import join

        join.main(arguments)
    elif command == ["dhcp-config"]:
        from clusterd import dhcp_config

        dhcp_config.main(arguments)
    else:
        sys.exit(
            "usage: python3 -m clusterd join ADDRESS FINGERPRINT\n"
            "       python3 -m clusterd dhcp-config dnsmasq|isc|kea   (the daemon itself is `twistd clusterd`)"
        )
