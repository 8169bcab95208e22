"""Pure functions on tensors, numbers and files that several kinds share; they know no model bundle and no stage."""
