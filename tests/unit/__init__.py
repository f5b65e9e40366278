"""Before anything imports transformers: a mistyped path must fail here, not become a download."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
