"""Running a plan: on Ray Train, or on one worker in this process."""
