"""gcnrec's command line, which reports every training step before it runs; a kill -9 loses no report.

    python jobs/measure/kill/metered.py DESCRIPTOR run JOB.toml --data DIR ...

One record a step goes to the file descriptor, a pipe: the number of train edges (a refit has more than a fit) and the step.
"""

from __future__ import annotations

import os
import struct
import sys

RECORD = struct.Struct("<II")


def main() -> None:
    from gcnrec import cli
    from gcnrec.sampling.sampler import Batch
    from gcnrec.steps.step import Step

    descriptor, plain = int(sys.argv[1]), Step.__call__

    def reported(self: Step, batch: Batch, rate: float) -> float:
        os.write(descriptor, RECORD.pack(self.sampler.graph.num_edges, batch.step))
        return plain(self, batch, rate)

    Step.__call__ = reported  # type: ignore[method-assign]
    sys.argv = ["gcnrec", *sys.argv[2:]]
    cli.main()


if __name__ == "__main__":
    main()
