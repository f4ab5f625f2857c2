"""A search on Ray Tune: it proposes settings, and stops bad trials early. Each trial is an ordinary run.

``spec.py`` is what a search is, without Ray. ``tuner.py`` runs it: Ray Tune's searchers and schedulers decide.
``trial.py`` is an actor in which Ray Tune runs one trial after another: it has their run drivers, and workers that
the runs share.
"""
