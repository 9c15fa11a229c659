"""The pages. Each view parses, makes one call, renders."""
