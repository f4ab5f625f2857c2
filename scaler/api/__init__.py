"""What Python callers and the command line share: one function for each thing that scaler does with a job or a run.

``scaler`` exports these functions. A command of ``scaler.cli`` parses its options, calls one of them and prints.
"""
