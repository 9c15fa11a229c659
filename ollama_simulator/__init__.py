"""An Ollama over real HTTP, honest to what was measured on a real one.

`python -m ollama_simulator --port 11500 --vram 24GB --model qwen2.5:7b=4.7GB`. It imports nothing
of the product, and the product meets it only by its address. The numbers in comments are facts
measured on a real server; the contract suite holds both to them.

Pure, with time passed in: `server` (what a simulation drives), `machine` (the scheduler), `runner`,
`catalog`, `faults`, `durations`. Over HTTP: `app` (routes), `native` and `talking` (`/api`),
`openai` and `responses` (`/v1`), `control` (`/_sim`), `host` (real time), `serving` (the port).
"""
