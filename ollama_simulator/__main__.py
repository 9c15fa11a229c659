import sys

from ollama_simulator.command import main

sys.exit(main())
