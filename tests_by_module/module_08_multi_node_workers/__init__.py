"""Module 08: a worker on each node behind one frontend; joins, leaves, losses, and engines over several nodes."""
