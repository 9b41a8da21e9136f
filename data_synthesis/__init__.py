"""Reasoning traces: what a teacher writes down about a history, for the model to learn from.

teacher   the rule-based teacher, which needs no model and no network
filters   predicates that drop a bad trace and say why
traces    stage `synthesize`
"""
