"""What happened: from purchases as someone kept them to a catalogue, sequences and splits.

In the order of the work:

    sources.py    what every reader returns, and the reader of our own JSONL folders
    tables.py     a person's own CSV, Parquet or JSON-lines files (frames.py: their columns)
    amazon.py, lcrec.py, minionerec.py, recbole.py, movielens.py
                  public sets in their published form (assemble.py: what they share)
    lines.py      files of one JSON object a line, plain or gzip, hostile ones included
    unusable.py   rows that could not be used, by reason
    inspect.py    what a file looks like, and a recipe for it (head.py: the beginning of a file)
    simulate.py   a shop whose customers' tastes are known (shop.py: its words; shelves.py: its
                  catalogue; oracle.py: how well anyone could predict it)
    prepare.py    stage `data`
    keep.py       deduplication, k-core, dense ids (columns.py: whole columns at once)
    split.py      leave-one-out, or 8:1:1 by time
    store.py      the data folder that all later stages read: catalogue, interactions, splits
    copurchases.py
                  which items are bought near each other, for item kNN and the path scorer
"""
