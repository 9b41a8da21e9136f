"""How good it is: metrics over the whole catalogue, baselines, quality of reasoning, the report."""
