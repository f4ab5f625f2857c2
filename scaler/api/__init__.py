"""The functions that Python callers and the command line share: ``submit``, ``resume``, ``find_lr`` and ``compare``.

``scaler`` exports them. A command of ``scaler.cli`` parses its options, calls one of these functions and prints.
"""
