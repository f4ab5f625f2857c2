"""The training loop and its parts: torch, no Ray.

loop.py            one worker's training from its first step to its last
position.py        where the training is in the plan, and the learning rate there
stepper.py         one optimizer step: gradients/, optimizer/, model/
controllers.py     what reacts to measurements: plateau, divergence, AdaScale, a batch that grows with the noise
recorder.py        records and events until they are handed over; clock.py measures, activity.py is for the watchdog
data/              the order of the samples, and batches
evaluation/        evaluation over all workers
checkpoints/       the saved state, its files, and the thread that writes them
recipe/            the user's recipe: found, imported, checked
start_checks/      checks before the first step
worker_context.py  what the loop needs from outside; in_process.py provides it without Ray, cluster/ with it
process_group.py, device.py, randomness.py  torch's process group, the worker's device, its random numbers
"""
