"""Module 00: every component is there, where the inventory says, and a request passes each hop once."""
