"""An Ollama simulator over real HTTP that behaves as measured on a real server.

`python -m ollama_simulator --port 11500 --vram 24GB --model qwen2.5:7b=4.7GB`. It imports nothing
from the product, and the product only knows its address. The numbers in comments are facts measured
on a real server; the contract suite checks both against them.

Pure, with time passed in: `server` (which simulations drive), `machine` (the scheduler), `runner`,
`catalog`, `faults`, `durations`. Over HTTP: `app` (routes), `native` and `talking` (`/api`),
`openai` and `responses` (`/v1`), `control` (`/_sim`), `host` (real time), `serving` (the port).
"""
