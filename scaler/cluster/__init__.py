"""Run a plan: on Ray Train, or with one worker in this process."""
