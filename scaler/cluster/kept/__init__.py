"""Workers that several runs share: they train one run after another, each in new processes.

``group.py`` is the driver's side. ``host.py`` is the Ray actor of one worker. ``template.py`` is a process beside the
host that has imported torch and the recipe; for each run it forks a process, in which ``process.py`` trains. So a run
is as isolated as if it were alone, its memory is free when it has ended, and it starts in a fraction of a second.
"""
