"""The training loop and its parts: torch, no Ray.

run.py             what any loop has: the place in the plan, controllers, records, the best value
loop.py            the built-in loop, written on run.py: steps.py, hand_over.py, saving.py, recovery.py, growth.py
own_loop/          what scaler.start returns, written on run.py too: it counts samples and writes learning rates
work.py            what a worker does with a job: train its recipe, or call its script
position.py        where the training is in the plan, and the learning rate there
stepper.py         one optimizer step: gradients/, optimizer/, model/
parallel/          how the workers share the model: a copy each (DDP), or shards (FSDP2)
controllers.py     what reacts to measurements: plateau, divergence, AdaScale, a batch that grows with the noise
recorder.py        records and events until they are handed over; clock.py measures, activity.py is for the watchdog
data/              the order of the samples, and batches
evaluation/        evaluation over all workers
checkpoints/       the saved state, its files, and the thread that writes them
recipe/            the user's recipe: found, imported, checked
start_checks/      checks before the first step
worker_context.py  what the loop needs from outside; process_context.py provides it without Ray, cluster/ with it
in_process.py      trains without Ray: in this process, or in those that torchrun has started
process_group.py, device.py, randomness.py  torch's process group, the worker's device, its random numbers
"""
