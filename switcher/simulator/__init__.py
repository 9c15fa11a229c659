"""An Ollama over real HTTP, honest to what was measured on a real one.

`python -m switcher.simulator --port 11500 --vram 24GB --model qwen2.5:7b=4.7GB`. It imports nothing
of the product, and the product meets it only by its address. The numbers in comments are facts
measured on a real server; the contract suite holds both to them.
"""
