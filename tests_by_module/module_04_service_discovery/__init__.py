"""Module 04: etcd: registration, leases, watches, and the loss and return of workers and of etcd."""
