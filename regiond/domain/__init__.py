"""Pure rules: no Twisted, no SQL, no clock."""
