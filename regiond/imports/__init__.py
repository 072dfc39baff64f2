"""Reservations from a file: said what it would do, then done, all or nothing.

# Note [Imports]
`POST /imports` keeps the file and answers; a regiond takes it and works on it in small steps, so that nobody waits for
it. First every line is read, and looked at as the planner would decide it now, without any lock: all that is wrong is
found at once, and a dry run ends there. Then one transaction holds the locks of the file's subnets, plans every line
again, part by part, writes it, and says that the import is done. Whoever dies in between has changed nothing, and
another regiond begins anew. Nobody else's claim fails because of an import; on its subnets claims wait for that
transaction (for 10,000 lines one to two seconds on two cores), and this regiond's wait beside the writer's queue, so
that claims on other subnets go on.
"""
