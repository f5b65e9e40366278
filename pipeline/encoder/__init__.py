"""encoder: a pretrained or fine-tuned model with everything needed to use it, and the one way to run it.

`bundle` is the directory format, `tokenize` makes ids, `batching` (pure) decides which rows share a forward
pass, `model` runs it, `attention` says what hardware and family allow, `pooling` makes embeddings.

Shapes, in names across this package: B rows of a batch, S tokens (padded), H hidden size, C classes.
"""
