"""The cluster's side of the link to its region: who it is, what it is asked, what it reports."""
