"""Real Ray clusters of several nodes on this machine, each with processes of its own."""

from __future__ import annotations

import contextlib
import os
import warnings

import pytest
from processes import HANG_SECONDS

from tfbatch.workers.ray_slot import connect, disconnect

STORE = 80 * 2**20
"""Bytes of each node's object store; Ray's default is a share of the machine's memory."""
PATIENT = {"health_check_timeout_ms": 1000 * HANG_SECONDS}
"""A node that answers late lives; one that was killed refuses the connection at once."""
_STARTS = 10


@contextlib.contextmanager
def ray_cluster(*cpus):
    """A cluster whose nodes lend so many cores each; the first is the head."""
    pytest.importorskip("ray", reason="not installed: pip install 'tfbatch[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_gcs_server_port_wait_time_s"] = str(HANG_SECONDS)  # noqa: SIM112 - Ray's own
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster

        head = {"num_cpus": cpus[0], "include_dashboard": False, "object_store_memory": STORE}
        head |= {"wait": False, "_system_config": PATIENT}
        cluster = _started(lambda: Cluster(initialize_head=True, head_node_args=head))
        try:
            for count in cpus[1:]:
                add_node(cluster, count)
            yield cluster
        finally:
            cluster.shutdown()


def add_node(cluster, cpus, **environment):
    """A further node that lends so many cores, with these variables in all of its processes."""
    return _started(
        lambda: cluster.add_node(
            num_cpus=cpus, object_store_memory=STORE, wait=False, env_vars=environment
        )
    )


def _started(start):
    """What Ray starts, again where its own limit of 30 s for a start was too short."""
    for _ in range(_STARTS - 1):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return start()


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
