"""How the model reads and writes items.

vocab       extends a causal language model by the item tokens, or builds a small one from a config
prompting   turns histories into token ids; text from data can never become a token of its own
name_order  in which order an answer spells the codes of a name without an order
alignment   rows that tie names to titles and to each other
reasoning   the five-step chain: written, parsed, turned into rows
curriculum  which rows a training stage sees, how often, in which order
"""
