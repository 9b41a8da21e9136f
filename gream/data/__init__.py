"""What happened: from purchases as someone kept them to a catalogue, sequences and splits.

In the order of the work:

    sources.py    JSONL folders -> items and purchases as they came
    tables.py     a person's own CSV or Parquet files -> the same
    simulate.py   a shop whose customers' tastes are known (shop.py: its words; shelves.py: its
                  catalogue; oracle.py: how well anyone could predict it)
    prepare.py    stage `data`: deduplicate, k-core, leave-one-out split
    store.py      the data folder that all later stages read: catalogue, interactions, splits
"""
