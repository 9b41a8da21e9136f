"""What an item is called: text, vector, codes, one name for each item, and what holds a search to them.

In the order of the work:

    item_text.py       stage `text`: one text for each item
    embed.py           stage `embed`: one vector for each item, from text (tfidf.py; encoder.py, pooling.py,
                       encoding.py) and purchases (collaborative.py), joined in vectors.py; evidence.py says
                       at which weight they predict best; new_items.py embeds what comes later;
                       embeddings_file.py reads what was written
    build.py           stage `sids`: codes and names
      quantiser.py       what every fitted quantiser can do
      residual.py        residual k-means (kmeans.py), plain or balanced
      rqvae.py, mpq.py   networks, trained with codebook_training.py
      opq.py             a rotation and its slices
      index_file.py      names that another tool made
    collisions.py      one name for each item, also for new ones; adding.py is `gream sids --add`
    sids_report.py     the figures (neighbourhood.py, predictability.py), sids_plots.py, and the verdict.py;
                       comparison.py is `gream sids --compare`
    export.py          `gream export`: files for RecBole and LC-Rec
    layout.py          shape and spelling of names
    paths.py           what a search asks of names, so that it reaches real items only
      constraint.py      the trie of ordered names (nodes.py numbers it)
      postings.py        posting lists for unordered names
      constraint_file.py both beside the names
"""
