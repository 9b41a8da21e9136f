"""A gream command on two real processes, over which a tiny model is shared out for real.

Started by `test_shared_out`, with a folder to write to and the words of the command.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from torch import distributed

from gream.cli import main
from tests.training.sharing_out import share_out_for_real

if __name__ == "__main__":
    share_out_for_real()
    folder, *words = sys.argv[1:]
    code = main(words)
    told = {"code": code, "world_size": distributed.get_world_size()}
    (Path(folder) / f"rank-{distributed.get_rank()}.json").write_text(json.dumps(told))
