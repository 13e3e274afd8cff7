"""The benchmark: our service beside other servers, one model behind each, and beside the limit of the same machine.

    __main__ ─▶ plan ─▶ rounds ─▶ session ─▶ wrk, open_loop ─▶ results ─▶ targets, table, plot
                          │          └ servers/NAME.py, in an environment of its own (environments)
                          └ limit: the exported graphs in process, one process a core

`python -m bench --help` says how to run it. Only Linux: processes are measured through /proc. The harness needs no more
than the extra `bench`; what a server needs goes into that server's own environment.
"""

from pathlib import Path

ROOT = Path(__file__).parent.parent
