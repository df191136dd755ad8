"""What a worker is as a process: how it ends, what its forks do, how it shows its stacks."""
