"""Replay tables: measured curves of full grids, on which searches are simulated in milliseconds.

A simulated search asks a table what a training of a batch size, a rate and a schedule came to, up
to any evaluation, and pays the price that the training had. `benchmarks/replay_tables.py` is the
command that makes and checks them.

    plan.py    what a table holds, fixed before anything is searched on it
    oracle.py  an oracle that proposes a plan: trunks in parts, cool-downs as branches of them
    make.py    makes a plan with the package itself, one run for each seed, and collects it
    table.py   the stored form and its reader; needs NumPy alone
"""
