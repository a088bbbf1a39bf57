"""Each file measures one thing of model, data and hardware, in the process that trains."""
