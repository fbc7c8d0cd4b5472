from __future__ import annotations

import torch

# Models this small lose more time to thread synchronization than they gain; on a busy machine, a hundred times as much.
torch.set_num_threads(1)
