"""kdlib: the library behind *Knowledge distillation, verified*.

The modules follow the way of the data: `data` -> `labels` -> `kernels` -> `path` -> `bounds` -> `ledger`;
each one imports only what stands before it. Importing kdlib switches JAX to 64-bit arrays, because theorems
are checked to rounding; arrays that you make as float32 stay float32 wherever a docstring says so.
"""

import jax

jax.config.update("jax_enable_x64", True)

__version__ = "0.1.0"
