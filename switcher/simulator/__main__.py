import sys

from switcher.simulator.command import main

sys.exit(main())
