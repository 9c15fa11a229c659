"""How pages and terminals present the read models: words, states, bars, sentences.

Shared by entry points that render the same things. Reads no rows.
"""
