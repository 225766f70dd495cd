"""Module 04: etcd by hand: registration, leases, watches, loss and return of workers and of etcd itself."""
