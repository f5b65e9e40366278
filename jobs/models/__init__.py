"""`bertmill models ...`: versions of models in a registry, and the aliases that say which one is in use."""
