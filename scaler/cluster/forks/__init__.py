"""Start the workers of an embedded cluster as forks of one process that has imported torch and Ray.

Ray starts a worker as a command. With this package, the command is ``client.py``, which imports nothing: it asks the
process ``server.py`` for a fork, hands it its own environment and files, and ends. The fork then runs Ray's worker as
the command would have. So the imports, five CPU seconds, are done once instead of once a worker, and the workers share
their memory. ``start.py`` is the part of the driver.

Whenever something is not as expected, the client runs Ray's own command: the worker starts later, and is the same.
See docs/decisions/0047-workers-are-forked.md.
"""
