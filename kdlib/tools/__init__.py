"""What every room uses: the doorway for arrays, files, intervals, provenance; and for notebooks: parameters, plots."""
