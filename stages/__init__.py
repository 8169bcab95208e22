"""The compression methods: they know tensors and models, and no graph, store, cluster or Ray."""
