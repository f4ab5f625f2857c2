"""How the workers share a model: each has a copy (``replicated.py``), or each has a part (``sharded.py``)."""
