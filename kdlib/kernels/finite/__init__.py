"""The NTK of finite networks, one file a step.

`layers`: how each parameter enters a network. `features`: what of each example enters the kernel, and its contraction.
`prepared`: trace, verify and compile a network. `gram`: the Gram, block by block. `operator`: products without it.
"""
