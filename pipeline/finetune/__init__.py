"""finetune: labelled Parquet and an encoder in, a bundle out.

`spec` is what the user writes, `prepare` checks it before Ray starts, `labelled` reads labels, `token_cache` keeps
ids, `plan` (pure) says which rows make which step, `step` is one optimizer step, `loop` is plain PyTorch,
`checkpoint` saves and restores, `worker` is one rank's work, `run` is the whole plane on one screen and the only
file importing ray.train.
"""
