"""Real Ray clusters of several nodes on this machine, each with processes of its own."""

from __future__ import annotations

import contextlib
import os
import warnings

import pytest

from tfbatch.workers.ray_slot import connect, disconnect

STORE = 80 * 2**20
"""Bytes of each node's object store; Ray's default is a share of the machine's memory."""


@contextlib.contextmanager
def ray_cluster(*cpus):
    """A cluster whose nodes lend so many cores each; the first is the head."""
    pytest.importorskip("ray", reason="not installed: pip install 'tfbatch[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster

        head = {"num_cpus": cpus[0], "include_dashboard": False, "object_store_memory": STORE}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for count in cpus[1:]:
                add_node(cluster, count)
            yield cluster
        finally:
            cluster.shutdown()


def add_node(cluster, cpus):
    """A further node that lends so many cores."""
    return cluster.add_node(num_cpus=cpus, object_store_memory=STORE)


@contextlib.contextmanager
def connected(address):
    """This process is a driver of the cluster."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        connect(address)
    try:
        yield
    finally:
        disconnect()
