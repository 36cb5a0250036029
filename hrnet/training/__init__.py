"""Training: schedule, loss, state and the loop, a generator of events."""
