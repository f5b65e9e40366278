"""Jobs on a cluster that runs elsewhere: packaged, submitted once, followed to their end, over Ray's job server."""
