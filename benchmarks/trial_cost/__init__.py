"""What one short trial costs, with each of several ways of running many of them.

Every engine trains the same network on the same images with the same 24 pairs of batch size and
schedule, each engine in a process of its own. `benchmarks/trials.py` is the command.

    plan.py             the pairs, their order, their learning rates; what an engine is given
    images.py           8,000 + 2,000 images of CIFAR-10, as a data set that every engine reads
    network.py          the network
    keras_parts.py      schedules, optimizer, loss and the two input pipelines of Keras users
    bare.py             a bare compiled loop
    side_by_side.py     bare loops, one for each core
    with_keras_tuner.py KerasTuner
    with_optuna.py      Optuna
    with_tfbatch.py     this package
    parts.py            the clock of named parts, and the table of where a trial's second goes
    timed.py            what is timed: parts of this package and of the bare loop
    process.py          one engine in one process
    report.py           seconds, ratios within a round, the printed table
"""
