"""`python -m pelican`."""

import os

from pelican.launch.leash import hold

# multiprocessing's spawned processes (vLLM's engine) import this module again, under another name:
# they must not run the command a second time, nor outlive the process that runs it.
if __name__ == "__mp_main__":
    hold(os.getppid())

if __name__ == "__main__":
    from pelican.cli import main

    main()
