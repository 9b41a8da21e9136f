"""How the model reads and writes items.

vocab       extends a causal language model by the item tokens, or builds a small one from a config
prompting   turns histories into token ids; text from data can never become a token of its own
name_order  in which order an answer spells the codes of a name without an order
reasoning   the five-step chain: written, parsed, turned into rows
rows        what a row is, what it is made of, how it draws its phrasing
item_tasks, history_tasks, trace_tasks  rows about items, purchases, and what a teacher wrote
alignment   all tasks by their names
schedule    when the rows of a task come
curriculum  which rows a training stage sees, how often, in which order
"""
