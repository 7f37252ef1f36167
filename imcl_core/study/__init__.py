"""Many runs: grids, batches and pools, records read together, plans, the search for weights, tables and claims."""
