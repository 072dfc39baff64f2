"""Does anybody on the wire use an address? Asked before it is handed out, by ARP and by neighbour solicitations."""
