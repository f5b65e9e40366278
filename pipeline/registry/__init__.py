"""Models over time: bundles under names and version numbers, in the storage itself; aliases say which one is in use."""
