"""Each file measures one thing of a model, its data and the hardware, in the process that trains."""
