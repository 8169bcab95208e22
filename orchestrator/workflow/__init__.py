"""What is asked: the workflow file, its checks, the keys of its nodes and the plan."""
