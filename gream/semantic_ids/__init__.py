"""What an item is called: text, embedding, residual codes, one name for each item, and the trie of names.

Stages `text` (item_text), `embed` and `sids` (build); `layout` holds the shape and spelling of names,
`residual` the quantiser, `constraint` the trie that lets a search reach real items only.
"""
