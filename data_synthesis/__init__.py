"""What a teacher writes down for the model to learn from: product texts, and reasoning about histories.

teacher        the rule-based teacher, which needs no model and no network
model_teacher  a model as teacher: what it is shown, and a trace out of its answer
denoise        which purchases of a history do not fit, and how well that is known
filters        predicates that drop a bad trace and say why, with
               words (the catalogue's), kinds (which category a text speaks of), near_copies
traces         stage `synthesize`, by either teacher       trace_report   what people see of it
profiles       stage `synthesize profiles`, by a model

settings       what the stages are told about a model behind an endpoint
questions      prompts in which text from data stays text
asking         many questions: the disk first, then several calls at a time within the budget
endpoint       one call: paced, retried, an answer or a counted reason
call_cache     answers on the disk        account    tokens, money, failures
rehearsal      the dry run
"""
