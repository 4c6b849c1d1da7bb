"""From text anywhere to packed token files, and from those to batches.

The way through: ``sources`` finds the files and plans shards, ``tokenizer`` trains or loads the vocabulary on a
bounded sample, ``pool`` has worker processes ``pack`` each shard into a part, ``assemble`` splits the documents
into training and validation text and joins the parts, ``prepare`` orders and caches all of it. Training reads the
result through ``prepared`` and ``batches``, which import nothing heavier than numpy.
"""
