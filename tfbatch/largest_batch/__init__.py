"""The largest batch that fits into memory, found by running it in fresh processes.

`measurement.measure_memory` finds it for what is on a bench, by `search` in processes of
`fresh_process`, which do what `training_load` says.
"""
