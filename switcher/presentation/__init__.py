"""What pages and terminals show of the read models: words, states, bars, sentences.

Shared by the entry points that render the same things. Reads no rows.
"""
