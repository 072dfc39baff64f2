"""Rolling upgrades: what older programs say and read, as recorded, and daemons that know nothing beyond it."""
