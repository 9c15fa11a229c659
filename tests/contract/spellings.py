"""Forty spellings of model names, and what a server with one of the names makes of each.

The first column is the only name on the disk, the second what a request says, the third whether
that finds the model, finds nothing, or is refused as no name at all.
"""

from __future__ import annotations

SAME, OTHER, INVALID = "the same", "another", "not a name"

TAGGED = "contract-x:7b"
LATEST = "contract-x:latest"
USER = "contract-anna/x:7b"
HUB = "hf.co/contract-anna/x:Q4_K_M"
PRIVATE = "registry.lan:5000/contract-team/m:latest"

SPELLINGS = [
    (TAGGED, "contract-x:7b", SAME),
    (TAGGED, "CONTRACT-X:7B", SAME),
    (TAGGED, "Contract-X:7b", SAME),
    (TAGGED, "library/contract-x:7b", SAME),
    (TAGGED, "LIBRARY/contract-x:7b", SAME),
    (TAGGED, "registry.ollama.ai/library/contract-x:7b", SAME),
    (TAGGED, "Registry.Ollama.AI/Library/Contract-X:7B", SAME),
    (TAGGED, "https://registry.ollama.ai/library/contract-x:7b", SAME),
    (TAGGED, "http://registry.ollama.ai/library/contract-x:7b", SAME),
    (TAGGED, "contract-x", OTHER),
    (TAGGED, "contract-x:latest", OTHER),
    (TAGGED, "contract-x:7", OTHER),
    (TAGGED, "anna/contract-x:7b", OTHER),
    (TAGGED, "hf.co/library/contract-x:7b", OTHER),
    (TAGGED, "registry.ollama.ai:443/library/contract-x:7b", OTHER),
    (TAGGED, "registry.ollama.ai/contract-x:7b", INVALID),
    (TAGGED, "ollama.com/contract-x:7b", INVALID),
    (TAGGED, "https://contract-x:7b", INVALID),
    (TAGGED, "https://library/contract-x:7b", INVALID),
    (TAGGED, "contract-x:7b:7b", INVALID),
    (TAGGED, "contract-x:7b@sha256:0123", INVALID),
    (TAGGED, "contract x:7b", INVALID),
    (TAGGED, "/contract-x:7b", INVALID),
    (TAGGED, "contract-x:7b/", INVALID),
    (TAGGED, "-contract-x:7b", INVALID),
    (TAGGED, "contract-ä:7b", INVALID),
    (LATEST, "contract-x", SAME),
    (LATEST, "Contract-X", SAME),
    (LATEST, "contract-x:LATEST", SAME),
    (LATEST, "library/contract-x", SAME),
    (LATEST, "registry.ollama.ai/library/contract-x", SAME),
    (LATEST, "contract-x:", INVALID),
    (USER, "contract-anna/x:7b", SAME),
    (USER, "Contract-Anna/X:7B", SAME),
    (USER, "registry.ollama.ai/contract-anna/x:7b", SAME),
    (USER, "x:7b", OTHER),
    (USER, "contract.anna/x:7b", INVALID),
    (HUB, "hf.co/contract-anna/x:Q4_K_M", SAME),
    (HUB, "HF.co/contract-anna/x:q4_k_m", SAME),
    (HUB, "https://hf.co/contract-anna/x:Q4_K_M", SAME),
    (HUB, "huggingface.co/contract-anna/x:Q4_K_M", OTHER),
    (PRIVATE, "registry.lan:5000/contract-team/m:latest", SAME),
    (PRIVATE, "registry.lan:5000/contract-team/m", SAME),
    (PRIVATE, "http://registry.lan:5000/contract-team/m", SAME),
    (PRIVATE, "registry.lan/contract-team/m", OTHER),
    (PRIVATE, "one/registry.lan:5000/contract-team/m", INVALID),
]

# Servers since about 0.15 read a last `:local` as a place, and ignore blanks around a name.
NEWER_SPELLINGS = [
    (TAGGED, " contract-x:7b\n", SAME),
    (TAGGED, "contract-x:7b:local", SAME),
    (TAGGED, "contract-x:7b:LOCAL", SAME),
    (LATEST, "contract-x:local", SAME),
    (TAGGED, "contract-x:7b:local:local", INVALID),
    (TAGGED, "contract-x:7b:local:cloud", INVALID),
]
