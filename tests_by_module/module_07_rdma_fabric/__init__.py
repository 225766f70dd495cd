"""Module 07: RDMA devices and ports, what would fail on them later, and what the links between nodes carry."""
