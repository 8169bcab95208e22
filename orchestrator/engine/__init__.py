"""How a plan runs: the scheduler, the worker that runs one node, the executors and where to run."""
